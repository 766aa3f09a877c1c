"""Set-up says in one line what is missing, before it creates anything."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOCAL = ROOT / "deploy" / "local"
TOOLS = ["awk", "bash", "cat", "dirname", "env", "grep", "id", "mktemp", "paste", "rm", "sed"]
TOOLS += ["sha256sum", "tr"]
ALL = "compiler libjpeg turbojpeg opencv python"


@pytest.fixture
def programs(tmp_path):
    """A folder to be the whole PATH, with what the scripts themselves need, and a Python."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in TOOLS:
        (folder / name).symlink_to(shutil.which(name))
    (folder / "python3.11").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    return folder


@pytest.fixture
def tree(tmp_path):
    """The project's root with nothing in it but the scripts."""
    root = tmp_path / "tree"
    shutil.copytree(LOCAL, root / "deploy" / "local", ignore=shutil.ignore_patterns("*.py", "__*"))
    return root


def add_program(folder, name, text):
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


def add_compilers(programs, names=("gcc", "g++", "pkg-config")):
    """This machine's, found where they are looked for with the real PATH."""
    for name in names:
        add_program(programs, name, f'PATH={os.environ["PATH"]} exec {shutil.which(name)} "$@"')


def run(command, root=ROOT, **environment):
    """Run a command of bash with no other environment; its status, output and errors."""
    bash = shutil.which("bash")
    done = subprocess.run(
        [bash, "-c", command],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def sourced(command, **environment):
    """Run functions of capabilities.sh."""
    script = f"set -euo pipefail; . deploy/local/capabilities.sh; python=; {command}"
    return run(script, **environment)


def refusal(root, programs, arguments="", **environment):
    """The one line that set-up says, having created nothing."""
    before = sorted(root.rglob("*"))
    status, output, errors = run(
        f"deploy/local/setup.sh {arguments}", root, PATH=str(programs), **environment
    )
    assert (status, output) == (2, ""), errors
    assert sorted(root.rglob("*")) == before
    assert errors.startswith("setup: ")
    assert errors.count("\n") == 1, errors
    return errors.strip()


def test_machine_without_compiler_and_packages(tree, programs):
    line = refusal(tree, programs)
    for part in ("compilers of C and C++", "jpeglib.h", "turbojpeg.h", "OpenCV 4", "Debian 12"):
        assert part in line
    assert "Python" not in line


def test_libraries_that_are_there_are_not_missing_without_compiler(tree, programs):
    add_compilers(programs, ["pkg-config"])
    line = refusal(tree, programs)
    assert "compilers of C and C++" in line
    assert "jpeg" not in line
    assert "OpenCV" not in line


def test_python_of_another_version(tree, programs):
    old = add_program(programs, "python3.11", "exit 1")
    assert "Python 3.11, 3.12 or 3.13 with venv and headers" in refusal(tree, programs)
    line = refusal(tree, programs, PYTHON=str(old))
    assert line.startswith(f"setup: PYTHON={old}: no Python 3.11, 3.12 or 3.13")


def test_everything_is_found_here(programs):
    add_compilers(programs)
    python = Path(sys.base_prefix) / "bin" / "python3"
    command = f'missing_capabilities "{python}"'
    assert sourced(command, PATH=str(programs)) == (0, "", "")
    # Headers alone do not suffice: OpenCV and TurboJPEG cannot be linked without their flags.
    add_program(programs, "pkg-config", "exit 1")
    assert sourced(command, PATH=str(programs)) == (0, "turbojpeg\nopencv\n", "")


@pytest.mark.parametrize(
    ("name", "jpeg", "python"),
    [
        ("debian 12", "libjpeg62-turbo-dev", "python3"),
        ("debian 13", "libjpeg62-turbo-dev", "python3"),
        ("ubuntu 22.04", "libjpeg-turbo8-dev", "python3.11"),
        ("ubuntu 24.04", "libjpeg-turbo8-dev", "python3"),
    ],
)
def test_names_of_packages(name, jpeg, python):
    command = f"distribution() {{ echo '{name}'; }}; all_packages {ALL}"
    _, output, _ = sourced(command, PATH=os.environ["PATH"])
    assert set(output.split()) == {
        "g++", jpeg, "libturbojpeg0-dev", "libopencv-dev", "pkg-config",
        python, f"{python}-venv", f"{python}-dev",
    }  # fmt: skip


def test_parts_of_a_python_are_named_after_it():
    command = "distribution() { echo 'debian 13'; }; python=/usr/bin/python3.13; "
    _, output, _ = sourced(command + "all_packages venv headers", PATH=os.environ["PATH"])
    assert output.split() == ["python3.13-venv", "python3.13-dev"]


def test_unknown_distribution(programs):
    add_program(programs, "apt-get", "exit 0")
    command = "distribution() { echo 'mint 22'; }; provide compiler opencv"
    status, output, errors = sourced(command, PATH=str(programs))
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert "gcc, g++" in errors
    assert "Ubuntu 22.04 and 24.04" in errors


def test_user_who_is_not_root_gets_the_command(programs):
    add_program(programs, "id", "echo 1000")
    add_program(programs, "sudo", "exit 1")
    add_program(programs, "apt-get", f"echo called > {programs}/called")
    command = "distribution() { echo 'ubuntu 24.04'; }; provide compiler libjpeg"
    status, output, errors = sourced(command, PATH=str(programs))
    assert (status, output, errors.count("\n")) == (2, "", 1)
    expected = "as root, run: apt-get install --no-install-recommends g++ libjpeg-turbo8-dev\n"
    assert errors.endswith(expected)
    assert not (programs / "called").exists()


def test_root_installs_only_what_is_missing(programs):
    add_compilers(programs, ["pkg-config"])
    add_program(programs, "id", "echo 0")
    add_program(programs, "apt-get", f'echo "$*" >> {programs}/called')
    command = "distribution() { echo 'debian 12'; }; require_capabilities"
    status, output, errors = sourced(command, PATH=str(programs))
    # What apt-get was asked for did not come, which is said before anything else happens.
    assert status == 2
    assert output == "setup: installing g++\n"
    assert errors.count("\n") == 1
    assert "still missing after the installation of packages: compilers of C and C++" in errors
    update, install = (programs / "called").read_text().splitlines()
    assert update.split()[0] == "update"
    assert install.endswith(" g++")


def test_arguments_are_checked_first(tree, programs):
    assert "give runtime, demo or test" in refusal(tree, programs, "everything")
    line = refusal(tree, programs, "demo", FASHION_MNIST=str(tree))
    assert line.startswith(f"setup: FASHION_MNIST={tree}: no train-images-idx3-ubyte.gz")


def test_wheelhouse_of_another_python(tree, programs):
    shutil.copytree(ROOT / "deploy" / "requirements", tree / "deploy" / "requirements")
    add_compilers(programs)
    wheelhouse = tree / "wheels"
    wheelhouse.mkdir()
    (wheelhouse / "torch-2.14.1-cp310-cp310-manylinux_2_28_x86_64.whl").touch()
    line = refusal(tree, programs, WHEELHOUSE=str(wheelhouse))
    assert line.startswith(f"setup: WHEELHOUSE={wheelhouse}: no wheel of torch for")
    assert f"make wheelhouse FOLDER={wheelhouse} PYTHON=python3" in line
