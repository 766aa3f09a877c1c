"""The locked requirements are complete and have hashes; the runtime's are apart from the tests'."""

import os
import re
import subprocess
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NO_WHEEL = {"assertpy", "fastargs", "ffcv"}


def read(name):
    """The versions and hashes of a file by name; every line is understood."""
    packages = {}
    for line in (FOLDER / name).read_text().splitlines():
        pinned = re.fullmatch(r"([a-z0-9-]+)==([\w.]+) \\", line)
        hashed = re.fullmatch(r"    --hash=sha256:([0-9a-f]{64})( \\)?", line)
        if pinned:
            assert pinned[1] not in packages, f"{pinned[1]} is there twice"
            package = packages[pinned[1]] = (pinned[2], set())
        elif hashed:
            package[1].add(hashed[1])
        else:
            assert (name, line) == ("test.txt", "-r runtime.txt")
    return packages


@pytest.fixture(scope="module")
def runtime():
    return read("runtime.txt")


@pytest.fixture(scope="module")
def tests():
    return read("test.txt")


def wanted(lines):
    """Requirements without those of the project's own extras."""
    requirements = [Requirement(line) for line in lines]
    return [each for each in requirements if canonicalize_name(each.name) != "dtkd-service"]


def test_every_package_has_hashes(runtime, tests):
    assert all(hashes for _, hashes in [*runtime.values(), *tests.values()])
    assert not runtime.keys() & tests.keys()
    assert (FOLDER / "test.txt").read_text().startswith("-r runtime.txt\n")


def test_lock_has_what_the_project_asks_for(runtime, tests):
    extras = PROJECT["project"]["optional-dependencies"]
    groups = PROJECT["dependency-groups"]
    development = wanted([*extras.pop("dev"), *groups["test-data"]])
    needed = wanted([*PROJECT["project"]["dependencies"], *sum(extras.values(), groups["build"])])
    for requirements, packages in [(needed, runtime), (development, runtime | tests)]:
        for requirement in requirements:
            version, _ = packages[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version, prereleases=True), requirement


def test_runtime_needs_nothing_of_the_tests(runtime):
    extras = {
        canonicalize_name(requirement.name): requirement.extras
        for requirement in wanted(PROJECT["project"]["dependencies"])
    }
    for name, (version, _) in runtime.items():
        installed = distribution(name)
        assert installed.version == version
        for line in installed.requires or []:
            requirement = Requirement(line)
            needed = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra})
                for extra in ["", *extras.get(name, [])]
            )
            assert not needed or canonicalize_name(requirement.name) in runtime, (name, line)


RECORDING_PIP = """#!/bin/bash
record=$(mktemp "$RECORDS/XXXXXX")
echo "$*" > "$record"
cat "${@: -1}" >> "$record"
"""


@pytest.mark.parametrize("level", ["runtime", "test"])
@pytest.mark.parametrize("wheelhouse", ["", "wheels"])
def test_installation_has_each_package_once(tmp_path, runtime, tests, level, wheelhouse):
    pip = tmp_path / "pip"
    pip.write_text(RECORDING_PIP)
    pip.chmod(0o755)
    records = tmp_path / "records"
    records.mkdir()
    environment = {**os.environ, "RECORDS": str(records), "WHEELHOUSE": wheelhouse}
    script = ROOT / "deploy" / "local" / "packages.sh"
    subprocess.run([script, pip, level], env=environment, check=True)

    expected = runtime | tests if level == "test" else runtime
    found = {}
    for record in records.iterdir():
        command, *lines = record.read_text().splitlines()
        names = {line.split("==")[0]: command for line in lines if not line.startswith(" ")}
        assert not found.keys() & names.keys()
        found |= names
        hashes = set().union(*(expected[name][1] for name in names))
        assert set(re.findall(r"--hash=sha256:(\w+)", record.read_text())) == hashes
    assert found.keys() == expected.keys()
    for name, command in found.items():
        assert "--no-deps --require-hashes" in command
        # Nothing that is not in the lock is fetched to build with.
        isolated = "--no-build-isolation" if name in NO_WHEEL else "--only-binary :all:"
        assert isolated in command
        assert ("--no-index --find-links wheels" in command) == bool(wheelhouse)
