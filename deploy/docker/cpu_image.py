"""Builds the image for CPUs with podman, on this machine's Debian and package indexes."""

import ast
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

from podman_engine import CommandError, Podman

TAG = "localhost/dtkd-service:cpu"
BASE = "localhost/debian:bookworm"
# pip's settings that Dockerfile has arguments of the same names for.
PIP_SETTINGS = ("index-url", "extra-index-url", "find-links", "cert")
# For the image, its largest layer once more as an archive, and what compiles packages.
FREE_BYTES = 20e9


def missing(storage: Path, others: Sequence[str] = ()) -> list[str]:
    """What this machine lacks to build an image in a folder; ``others``: programs needed beside."""
    mmdebstrap = [] if "BASE_IMAGE" in os.environ else ["mmdebstrap"]
    programs = ["podman", "runc", *mmdebstrap, *others]
    lacking = [program for program in programs if shutil.which(program) is None]
    if os.geteuid() != 0:
        lacking.append("root")
    if shutil.disk_usage(storage).free < FREE_BYTES:
        lacking.append(f"{FREE_BYTES / 1e9:.0f} GB in {storage}")
    return lacking


def build_image(podman: Podman) -> str:
    """Build it, or what has changed since it was built in this storage; the image it is built on.

    Raises:
        CommandError: the build has failed.
        subprocess.CalledProcessError: mmdebstrap has failed.
    """
    base = make_base(podman)
    settings = [sys.executable, "-m", "pip", "config", "list"]
    # Debian's Python has no pip, and then no settings of it.
    pip = subprocess.run(settings, capture_output=True, text=True).stdout
    podman.build("cpu", TAG, [f"--build-arg=BASE_IMAGE={base}", *pip_options(pip)])
    return base


def pip_options(settings: str) -> list[str]:
    """Options of a build that give it this machine's package indexes, local folders included.

    ``settings``: as ``pip config list`` prints them, in which later lines count.
    """
    values: dict[str, str] = {}
    for line in settings.splitlines():
        key, _, value = line.partition("=")
        values[key.rpartition(".")[2]] = ast.literal_eval(value)
    options = []
    for name in filter(values.get, PIP_SETTINGS):
        words = []
        for number, word in enumerate(values[name].split()):
            path = Path(urlparse(word).path)
            if urlparse(word).scheme in ("", "file") and path.exists():
                # An index's pages refer to files beside it. Where something is mounted, the image
                # keeps a folder; a container's /tmp hides it.
                inside = Path(f"/tmp/pip/{name}/{number}")
                shared = path if name != "extra-index-url" else path.parent
                options.append(f"--volume={shared}:{inside}:ro")
                prefix = "file://" if urlparse(word).scheme else ""
                word = prefix + str(inside if shared == path else inside / path.name)
            words.append(word)
        variable = f"PIP_{name.upper().replace('-', '_')}"
        options.append(f"--build-arg={variable}={' '.join(words)}")
    return options


def make_base(podman: Podman) -> str:
    """The image to start from: BASE_IMAGE, or Debian as mmdebstrap builds it."""
    if given := os.environ.get("BASE_IMAGE"):
        return given
    with contextlib.suppress(CommandError):
        podman.call("image", "exists", BASE)
        return BASE
    with tempfile.TemporaryDirectory() as folder:
        archive = f"{folder}/base.tar"
        subprocess.run(["mmdebstrap", "--variant=minbase", "-q", "bookworm", archive], check=True)
        podman.call("import", archive, BASE)
    return BASE
