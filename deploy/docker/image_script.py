"""The frame of scripts that build images and check them: their option, their storage, their end."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from podman_engine import CommandError, Podman


def run_script(
    name: str,
    description: str,
    lacking: Callable[[Path], list[str]],
    check: Callable[[Podman, Path], None],
) -> int:
    """Check, or say what this machine lacks to do so; returns the exit status.

    ``lacking``: is given the folder of the storage. ``check``: is given a temporary folder, too.
    """
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--storage", type=Path, help="keep images here, for the next build")
    kept: Path | None = parser.parse_args().storage
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        storage = kept or Path(folder, "storage")
        storage.mkdir(parents=True, exist_ok=True)
        if needed := lacking(storage):
            print(f"{name}: skipped, it needs {', '.join(needed)}")
            return 0
        podman = Podman(storage)
        try:
            check(podman, Path(folder))
        except (CommandError, subprocess.CalledProcessError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        finally:
            if kept is None:
                podman.remove_all()
    return 0
