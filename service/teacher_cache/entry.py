"""The folder with all that is stored for one key, shared by processes through file locks.

An entry is CACHE/DIGEST with key.json and a file for each epoch. Its users hold CACHE/DIGEST.lease
as a shared lock, so that nobody evicts it; what opens or evicts entries holds CACHE/.lock. The
kernel releases the locks of a process that dies.
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from data_pipeline.files import open_regular, remove_tree, write_atomically
from data_pipeline.json_files import UnusableFileError, read_json
from service.teacher_cache.epoch_file import EpochFile
from service.teacher_cache.key import KEY_LENGTH, Key, digest_of

KEY_NAME = "key.json"
KEY_LIMIT_BYTES = 1_000_000
LOCK_NAME = ".lock"
MARGIN_BYTES = 1 << 30
BLOCK_BYTES = 512

_NAME = re.compile(f"[0-9a-f]{{{KEY_LENGTH}}}")


class NoRoomError(OSError):
    """There is no room for another epoch, even without what is not in use."""


class EntrySize(NamedTuple):
    """Bytes of an entry's logits, and those that they take of the disk, which are fewer if not all
    rows are written.
    """

    num_bytes: int
    num_allocated_bytes: int


class CacheEntry:
    """The entry of a key in a folder; it is created if it does not exist, and not evicted until it
    is closed.

    Any method raises OSError where the storage fails.
    """

    def __init__(self, cache_path: Path, key: Key, limit_bytes: int | None):
        self._cache_path, self._limit_bytes = cache_path, limit_bytes
        self._folder = cache_path / digest_of(key)
        self._resources = ExitStack()
        cache_path.mkdir(parents=True, exist_ok=True)
        try:
            if (lease := _lease(self._folder)) is not None:
                self._resources.enter_context(lease)
            with _locked(cache_path):
                _prepare(self._folder, key)
        except OSError:
            self._resources.close()
            raise

    def close(self) -> None:
        """Allow the eviction of the entry."""
        self._resources.close()

    def epoch_file(self, epoch: int, num_places: int, row_bytes: int) -> EpochFile:
        """The file of an epoch, with room for a row at each place in its order.

        Raises:
            NoRoomError: the limit or the disk leaves none.
        """
        path = self._folder / f"epoch-{epoch:04d}.logits"
        num_bytes = num_places * row_bytes
        with _locked(self._cache_path):
            if not path.exists():
                _make_room(self._cache_path, self._folder, num_bytes, self._limit_bytes)
            file = EpochFile(path, row_bytes)
            if file.can_write and path.stat().st_size < num_bytes:
                # Rows that are not written yet take no space on the disk.
                os.truncate(path, num_bytes)
        return file

    def discard(self) -> None:
        """Remove what is stored; processes that have files of it open notice it."""
        with _locked(self._cache_path):
            for path in self._folder.glob("epoch-*"):
                path.unlink(missing_ok=True)


def _prepare(folder: Path, key: Key) -> None:
    """Make the folder that of this key, whatever is in it."""
    # Without the right key, nobody knows what the files are; a link may lead anywhere.
    if folder.is_symlink() or _stored_key(folder) != key:
        remove_tree(folder)
        folder.mkdir()
        write_atomically(folder / KEY_NAME, json.dumps(key, indent=1) + "\n")
    with suppress(OSError):
        os.utime(folder)


def _stored_key(folder: Path) -> dict[str, Any] | None:
    try:
        return read_json(folder / KEY_NAME, KEY_LIMIT_BYTES, dict)
    except (OSError, UnusableFileError):
        return None


@contextmanager
def _locked(cache_path: Path) -> Iterator[None]:
    """Hold the lock of the whole folder, which takes a moment; none where it is read-only."""
    with ExitStack() as stack:
        if os.access(cache_path, os.W_OK):
            file = stack.enter_context(open_regular(cache_path / LOCK_NAME, "ab"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lease(folder: Path) -> IO[bytes] | None:
    """Protect an entry from eviction until the returned file is closed.

    None where a read-only folder has no lease, as in a copy: nobody there can evict anything.
    """
    path = folder.with_name(f"{folder.name}.lease")
    if os.access(folder.parent, os.W_OK):
        lease = open_regular(path, "ab")
    else:
        try:
            lease = open_regular(path, "rb")
        except FileNotFoundError:
            return None
    fcntl.flock(lease, fcntl.LOCK_SH)
    return lease


def _make_room(cache_path: Path, own: Path, num_bytes: int, limit_bytes: int | None) -> None:
    """Remove the entries that were used least recently until a file of ``num_bytes`` fits.

    Those in use stay, and all of them if removing them would not be enough.
    """
    sizes = {path: _size(path) for path in _entries(cache_path)}
    disk = shutil.disk_usage(cache_path)
    margin_bytes = min(disk.total // 100, MARGIN_BYTES)
    of_disk = num_bytes + margin_bytes - disk.free
    total_bytes = sum(size.num_bytes for size in sizes.values())
    of_limit = num_bytes + total_bytes - limit_bytes if limit_bytes is not None else 0
    with ExitStack() as claims:
        others = sorted(sizes.keys() - {own}, key=lambda path: path.stat().st_mtime)
        victims = []
        for path in others:
            if max(of_limit, of_disk) > 0 and claims.enter_context(_claimed(path)):
                victims.append(path)
                of_limit -= sizes[path].num_bytes
                of_disk -= sizes[path].num_allocated_bytes
        if max(of_limit, of_disk) > 0:
            which = "its limit" if of_limit > 0 else "the disk"
            raise NoRoomError(f"{cache_path}: {which} leaves no room for {num_bytes:,} bytes")
        for path in victims:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Yield whether no process uses the entry; none can start to within the context."""
    with ExitStack() as stack:
        try:
            path = folder.with_name(f"{folder.name}.lease")
            file = stack.enter_context(open_regular(path, "ab"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _entries(cache_path: Path) -> list[Path]:
    """The folders of all keys; others in the cache's path are ignored."""
    found = [path for path in cache_path.iterdir() if _NAME.fullmatch(path.name)]
    return [path for path in found if path.is_dir() and not path.is_symlink()]


def _size(folder: Path) -> EntrySize:
    statuses = []
    for path in folder.glob("epoch-*"):
        # A process may discard it meanwhile.
        with suppress(FileNotFoundError):
            statuses.append(path.lstat())
    sizes = (status.st_size for status in statuses)
    return EntrySize(sum(sizes), sum(status.st_blocks * BLOCK_BYTES for status in statuses))
