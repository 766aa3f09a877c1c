"""File operations of all packages: retries, atomic writes, digests, remote locations."""

import contextlib
import errno
import functools
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

RETRY_PAUSES_S = (1.0, 5.0, 25.0)
# 64 bits: nobody can prepare for a name.
PARTIAL_BYTES = 8
PARTIAL_NAME = re.compile(rf"\.(?P<name>.+)\.[0-9a-f]{{{2 * PARTIAL_BYTES}}}\.partial")

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link",
}

Result = TypeVar("Result")


def retry_io(action: Callable[[], Result], pauses_s: Sequence[float] = RETRY_PAUSES_S) -> Result:
    """Call ``action``; if it raises OSError, wait and call it again, once after each pause.

    Raises:
        OSError: it failed after the last pause too.
    """
    for pause_s in pauses_s:
        try:
            return action()
        except OSError:
            time.sleep(pause_s)
    return action()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that no reader ever sees half-written; text is encoded as UTF-8.

    Raises:
        OSError: the storage fails; what was at ``path`` before is still there.
    """
    with atomic_path(path) as partial_path, open_regular(partial_path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """An empty new file in the same folder, for writers that take a path.

    What was written there is synced and renamed to ``path`` when the context ends, and removed when
    it ends with an error. Its name cannot be guessed, so that nobody who may write to the folder
    can put a link there. ``remove_partials`` removes those of processes that were killed.

    Raises:
        OSError: the storage fails; what was at ``path`` before is still there.
    """
    partial_path = partial_name(path)
    os.close(os.open(partial_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
    try:
        yield partial_path
        # Otherwise a machine that loses power may keep the name without the content.
        sync_to_disk(partial_path)
        partial_path.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial_path.unlink(missing_ok=True)
        raise


def partial_name(path: Path) -> Path:
    """A new name beside ``path``, for what is renamed to it, or removed, when it is complete."""
    return path.with_name(f".{path.name}.{secrets.token_hex(PARTIAL_BYTES)}.partial")


def remove_partials(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left of atomic writes in a folder and the folders in it.

    ``name``: only of the file with this name, in the folder itself. No other process may be writing
    there. What cannot be removed stays.
    """
    for parent, _, names in os.walk(folder):
        for found in names:
            match = PARTIAL_NAME.fullmatch(found)
            if match and name in (None, match["name"]):
                with contextlib.suppress(OSError):
                    (Path(parent) / found).unlink()
        if name is not None:
            return


class NotRegularError(OSError):
    """What is at a path is no regular file; ``kind`` says what it is, such as a FIFO."""

    def __init__(self, path: str, mode: int):
        self.kind = _KINDS.get(stat.S_IFMT(mode), "of another kind")
        super().__init__(errno.EINVAL, f"{Path(path).name} is {self.kind}", path)


def open_regular(
    path: Path, mode: str, buffering: int = -1, flags: int = 0, *, follow_links: bool = False
) -> IO[Any]:
    """Open a file as ``open`` does, text as UTF-8, if it is a regular file or a new one.

    A link at ``path`` could lead anywhere, and a FIFO would block for ever. ``flags``: of
    ``os.open``, in addition to those of ``mode``. ``follow_links``: whether ``path`` itself may be
    a symbolic link; its folders may.

    Raises:
        NotRegularError: it is something else.
        OSError: there is no such file, or the storage fails.
    """
    encoding = None if "b" in mode else "utf-8"
    flags |= os.O_NONBLOCK | os.O_NOCTTY | (0 if follow_links else os.O_NOFOLLOW)
    opener = functools.partial(_open_regular, more_flags=flags)
    return open(path, mode, buffering, encoding, opener=opener)


def _open_regular(path: str, flags: int, more_flags: int) -> int:
    try:
        descriptor = os.open(path, flags | more_flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENODEV):
            raise NotRegularError(path, os.lstat(path).st_mode) from error
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise NotRegularError(path, mode)


def is_regular(path: Path) -> bool:
    """Whether there is a regular file at ``path``, not a link to one.

    Raises:
        OSError: the storage fails.
    """
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it, a file or a link; nothing that a link leads to.

    Raises:
        OSError: the storage fails.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Flush a file or a folder's entries to the disk, so that they survive a loss of power.

    Raises:
        OSError: the storage fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 digest of a file, 64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_remote(location: str) -> bool:
    """Whether a location is in an object store (s3:// or gs://) and not a path."""
    return location.startswith(("s3://", "gs://"))
