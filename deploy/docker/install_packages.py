"""Installs the lock's packages for the image: install_packages.py LOCK tools|sources|cpu|cuda.

It runs in an environment of its own. tools: what compiles packages, in this environment. sources:
compiles what is released as sources only, into WHEELS. cpu, cuda: a target's packages, in TARGET.

All have the lock's versions and digests, except for torch and torchvision from the index that
TORCH_INDEX_URL names, whose digests are others. Needs pip and the standard library alone.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TARGET = Path("/opt/dtkd-service/.venv")
WHEELS = Path("/build/wheels")

TOOLS = re.compile(r"setuptools|wheel")
SOURCES = re.compile(r"assertpy|fastargs|ffcv")
TORCH = re.compile(r"torch|torchvision")
CUDA = re.compile(r"triton|cuda-.*|nvidia-(?!ml-py).*")
# PyPI's torch is linked to the other libraries of CUDA, and is not imported without them.
UNUSED_ON_CPU = re.compile(r"triton|cuda-(bindings|pathfinder|toolkit)|nvidia-(cusolver|nvtx)")


def entries(lock: str) -> dict[str, str]:
    """Each package's lines of a lock, by its name: ``name==version`` and its ``--hash`` options.

    Raises:
        ValueError: a package has no digest, or no exact version.
    """
    found: dict[str, str] = {}
    lines = re.sub(r"\\\n\s*", " ", lock).splitlines()
    for line in (line.strip() for line in lines if line and not line.startswith("#")):
        match = re.fullmatch(r"([\w.-]+)==\S+( +--hash=sha256:[0-9a-f]{64})+", line)
        if match is None:
            raise ValueError(f"is not NAME==VERSION with --hash=sha256: {line[:80]!r}")
        found[match[1].lower()] = line
    return found


def for_target(names: list[str], target: str, torch_index: str) -> list[str]:
    """The packages of a target, cpu or cuda; ``torch_index``: has torch without CUDA, if it is."""
    if target == "cuda":
        return names
    left_out = CUDA if torch_index else UNUSED_ON_CPU
    return [name for name in names if not left_out.fullmatch(name)]


def pip(
    command: str, requirements: list[str], *options: str, environment: Path | None = None
) -> None:
    """Let pip install what the lines of requirements say, or compile it, and nothing else.

    ``environment``: the one to install in, if it is not this process's.

    Raises:
        subprocess.CalledProcessError: pip has failed, and has said why.
    """
    if not requirements:
        return
    python = [f"--python={environment}"] if environment else []
    shared = ["--no-deps", "--no-cache-dir", "--quiet", "--disable-pip-version-check"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(requirements))
        file.flush()
        arguments = [*python, command, *shared, *options, "-r", file.name]
        subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


def install_target(lock: dict[str, str], target: str) -> None:
    """Create TARGET with a target's packages, for the code beside it, and say what it has.

    Raises:
        subprocess.CalledProcessError: pip has failed, and has said why.
    """
    torch_index = os.environ.get("TORCH_INDEX_URL", "") if target == "cpu" else ""
    names = for_target(list(lock), target, torch_index)
    compiled = [name for name in names if SOURCES.fullmatch(name)]
    from_index = [name for name in names if torch_index and TORCH.fullmatch(name)]
    wheels = [name for name in names if name not in {*compiled, *from_index}]
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", TARGET], check=True)
    (packages,) = TARGET.glob("lib/python3.*/site-packages")
    (packages / "dtkd-service.pth").write_text(f"{TARGET.parent}\n")
    versions = [lock[name].split()[0] for name in compiled]
    pip("install", versions, "--no-index", f"--find-links={WHEELS}", environment=TARGET)
    # Nothing of a wheel runs while it is installed.
    only_wheels = "--only-binary=:all:"
    locked = [lock[name] for name in wheels]
    pip("install", locked, "--require-hashes", only_wheels, environment=TARGET)
    versions = [lock[name].split()[0] for name in from_index]
    pip("install", versions, f"--index-url={torch_index}", only_wheels, environment=TARGET)
    print(f"installed {len(names)} of {len(lock)} packages, torch from {torch_index or 'the lock'}")
    print("left out:", *(sorted(set(lock) - set(names)) or ["nothing"]))


def main(path: Path, part: str) -> int:
    """Install a part of the lock; returns the exit status."""
    try:
        lock = entries(path.read_text())
    except (OSError, ValueError) as error:
        print(f"deploy: {path}: {error}; lock the packages again", file=sys.stderr)
        return 2
    try:
        if part == "tools":
            tools = [lock[name] for name in lock if TOOLS.fullmatch(name)]
            pip("install", tools, "--require-hashes", "--only-binary=:all:")
        elif part == "sources":
            sources = [lock[name] for name in lock if SOURCES.fullmatch(name)]
            pip(
                "wheel",
                sources,
                "--require-hashes",
                "--no-build-isolation",
                f"--wheel-dir={WHEELS}",
            )
        else:
            install_target(lock, part)
    except subprocess.CalledProcessError:
        print(f"deploy: {path}: pip has failed, as it says; is its index right?", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
