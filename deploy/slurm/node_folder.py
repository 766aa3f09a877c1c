"""The folder of Ray's files of a job on a node, which none but the job's user can read.

A job that is killed cannot remove it; the user's next job on the node does.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Ray's sockets are within, and their paths must be short.
PARENT = Path("/tmp")
PREFIX = "dtkd-ray-"
LOCK_NAME = "lock"
"""Held while the folder is used; a process that ends releases it."""


@contextlib.contextmanager
def node_folder() -> Iterator[Path]:
    """A new folder, removed at the end; what jobs that were killed have left is removed first."""
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PARENT))
    try:
        with (folder / "new").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # It gets its name when it is held.
            (folder / "new").rename(folder / LOCK_NAME)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned() -> None:
    for folder in PARENT.glob(f"{PREFIX}*"):
        # Those of other users, and what others remove meanwhile.
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid != os.getuid():
                continue
            with (folder / LOCK_NAME).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
