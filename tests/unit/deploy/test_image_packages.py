"""What the image's installer reads in a lock, and what it leaves out for CPUs."""

import re
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).parents[3] / "deploy" / "docker"))

from install_packages import SOURCES, entries, for_target, main

DIGESTS = ["a" * 64, "b" * 64]


def lock_text(*names):
    hashes = " \\\n".join(f"    --hash=sha256:{digest}" for digest in DIGESTS)
    return "".join(f"{name}==1.0 \\\n{hashes}\n" for name in names)


def test_what_is_compiled_is_what_the_set_up_compiles():
    script = (Path(__file__).parents[3] / "deploy" / "local" / "locked.sh").read_text()
    (names,) = re.findall(r"^source_packages='(.*)'$", script, re.MULTILINE)
    assert set(names.split("|")) == set(SOURCES.pattern.split("|"))


def test_a_package_has_its_version_and_all_its_digests():
    found = entries("# of what it is made\n\n" + lock_text("torch", "Flask", "zope.event"))
    assert list(found) == ["torch", "flask", "zope.event"]
    assert found["flask"].split() == ["Flask==1.0", *(f"--hash=sha256:{d}" for d in DIGESTS)]


@pytest.mark.parametrize(
    "line",
    [
        "torch==2.0",
        "torch>=2.0 --hash=sha256:" + DIGESTS[0],
        "torch==2.0 --hash=md5:" + DIGESTS[0],
        "--index-url=https://example.com",
        "https://example.com/torch.whl --hash=sha256:" + DIGESTS[0],
    ],
)
def test_a_package_that_is_not_pinned_by_digest_is_refused(line, tmp_path, capsys):
    path = tmp_path / "runtime.txt"
    path.write_text(lock_text("ray") + line + "\n")
    assert main(path, "cpu") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"deploy: {path}: ")
    assert error.count("\n") == 1


def test_with_an_index_of_cpu_wheels_nothing_of_cuda_is_left():
    needed = {
        re.sub(r"[-_.]+", "-", Requirement(line).name).lower() for line in requires("torch") or ()
    }
    cuda = {name for name in needed if re.match("nvidia|cuda|triton", name)}
    assert len(cuda) > 3
    names = [*sorted(needed), "nvidia-ml-py", "torch"]
    left = set(for_target(names, "cpu", "https://example.com/cpu"))
    assert left == set(names) - cuda
    assert for_target(names, "cuda", "") == names


def test_torch_of_pypi_keeps_the_libraries_that_it_is_linked_to():
    names = ["nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cusolver", "triton", "ray"]
    assert for_target(names, "cpu", "") == ["nvidia-cublas", "nvidia-cudnn-cu13", "ray"]
