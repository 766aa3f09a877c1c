"""The image's files agree with the project's, and build.sh refuses what cannot be built."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "docker"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()


def test_version_of_the_label_is_the_projects():
    (version,) = re.findall(r"image\.version=(\S+)", DOCKERFILE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert version == project["version"]
    assert re.findall(r"image\.licenses=(\S+)", DOCKERFILE) == [project["license"]]


def test_the_context_has_what_is_copied_and_no_more():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    context = {line[1:] for line in ignored if line.startswith("!")}
    copies = re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", DOCKERFILE)
    assert {source for copy in copies for source in copy.split()} == context
    assert "*" in ignored


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_target_ends_as_a_numeric_user(target):
    (stage,) = re.findall(rf"(?ms)^FROM runtime AS {target}$(.+?)(?=^FROM|\Z)", DOCKERFILE)
    instructions = [line for line in stage.splitlines() if line and not line.startswith("#")]
    assert instructions[-1] == "USER 1000:1000"


@pytest.mark.parametrize(
    ("arguments", "engine", "field"),
    [
        (["cpu"], "true", "arguments"),
        (["gpu", "tag"], "true", "target"),
        (["cpu", "tag"], "no-such-engine", "ENGINE"),
    ],
)
def test_build_refuses_mistakes_in_one_line(arguments, engine, field):
    done = subprocess.run(
        [FOLDER / "build.sh", *arguments],
        env={"PATH": "/usr/bin:/bin", "ENGINE": engine},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"deploy: {field}: ")
    assert done.stderr.count("\n") == 1


def test_build_passes_the_digest_of_the_lock_to_the_engine():
    lock = ROOT / "deploy" / "requirements" / "runtime.txt"
    digest = subprocess.run(["sha256sum", lock], check=True, capture_output=True, text=True)
    done = subprocess.run(
        [FOLDER / "build.sh", "cuda", "a:b", "--squash"],
        env={"PATH": "/usr/bin:/bin", "ENGINE": "echo --root /x"},
        check=True,
        capture_output=True,
        text=True,
    )
    words = done.stdout.split()
    assert words[:3] == ["--root", "/x", "build"]
    assert f"LOCK_SHA256={digest.stdout.split()[0]}" in words
    assert words[words.index("--target") + 1] == "cuda"
    assert words[-2:] == ["--squash", "."]
