"""File operations of all packages: retries, atomic writes, digests, remote locations."""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

RETRY_PAUSES_S = (1.0, 5.0, 25.0)

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
    with atomic_path(path) as partial_path:
        partial_path.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, for writers that take a path.

    What was written there is synced and renamed to ``path`` when the context ends, and removed when
    it ends with an error.

    Raises:
        OSError: the storage fails; what was at ``path`` before is still there.
    """
    partial_path = path.with_name(f".{path.name}.partial")
    try:
        yield partial_path
        # Otherwise a machine that loses power may keep the name without the content.
        sync_to_disk(partial_path)
        partial_path.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial_path.unlink(missing_ok=True)
        raise


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
