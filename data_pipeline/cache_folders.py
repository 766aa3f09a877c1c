"""Where machine code is cached: a folder that this user can write, and nobody else.

What is found in such a cache is executed.
"""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path


def first_writable(name: str, variable: str, *others: Path) -> Path:
    """The first folder ``name`` that this user can write, which is made where it is not there.

    In that of the environment's ``variable``, else in ``others``, in the user's cache, or in a
    folder of the user in the temporary one.
    """
    for parent in _parents(variable, others):
        folder = parent / name
        if _is_writable(folder):
            return folder
    return _temporary_parent() / name


def _parents(variable: str, others: tuple[Path, ...]) -> Iterator[Path]:
    if override := os.environ.get(variable):
        yield Path(override)
        return
    yield from others
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
    """A folder that only this user can write."""
    path = Path(tempfile.gettempdir()) / f"dtkd-service-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if is_own and not stat.S_IMODE(status.st_mode) & 0o077:
        return path
    # Somebody else made it: one for this process alone, which compiles again.
    return Path(tempfile.mkdtemp(prefix="dtkd-service-"))
