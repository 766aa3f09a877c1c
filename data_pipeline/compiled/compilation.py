"""Compiles the inner loops with numba: without the GIL, and once for all processes.

numba caches machine code on disk and checks for changes only the file of a function, not the files
of the functions that it calls. Here the cache folder is named by a digest of all sources, so a
change anywhere invalidates the cache.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numba

PACKAGE = Path(__file__).parents[1]


def cache_folder() -> Path:
    """The first folder for the machine code that this user can write.

    In NUMBA_CACHE_DIR, else in the package's __pycache__, in the user's cache, or in a folder of
    the user in the temporary one.
    """
    sources = sorted(PACKAGE.rglob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    for parent in _parents():
        folder = parent / f"numba-{digest[:16]}"
        if _is_writable(folder):
            return folder
    return _temporary_parent() / f"numba-{digest[:16]}"


def _parents() -> Iterator[Path]:
    if override := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(override)
        return
    yield PACKAGE / "__pycache__"
    try:
        yield Path.home() / ".cache" / "dtkd-service"
    except RuntimeError:
        # A user without an entry in the system's list of users.
        return


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _temporary_parent() -> Path:
    """A folder that only this user can write: numba executes what it finds in its cache."""
    path = Path(tempfile.gettempdir()) / f"dtkd-service-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if is_own and not stat.S_IMODE(status.st_mode) & 0o077:
        return path
    # Somebody else made it: one for this process alone, which compiles again.
    return Path(tempfile.mkdtemp(prefix="dtkd-service-"))


numba.config.CACHE_DIR = str(cache_folder())

compiled = numba.njit(nogil=True, cache=True)
"""Decorator of functions that are compiled to machine code when they are first called."""
