"""The folder with all that is stored for one key, shared by processes through file locks.

An entry is CACHE/DIGEST with key.json and a file for each epoch. Its users hold CACHE/DIGEST.lease
as a shared lock, so that nobody evicts it; what opens or evicts entries holds CACHE/.lock. The
kernel releases the locks of a process that dies.
"""

import json
import os
import re
import shutil
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path
from typing import IO, NamedTuple

from data_pipeline.files import remove_tree, write_atomically
from data_pipeline.json_files import UnusableFileError, read_json
from data_pipeline.shared_folders import (
    Size,
    choose_victims,
    claimed,
    is_real_folder,
    lease,
    locked,
    shortage_of,
    size_of,
)
from service.teacher_cache.epoch_file import EpochFile
from service.teacher_cache.key import KEY_LENGTH, Key, digest_of

KEY_NAME = "key.json"
KEY_LIMIT_BYTES = 1_000_000
LOCK_NAME = ".lock"
LOGITS_PATTERN = "epoch-*"

_NAME = re.compile(f"[0-9a-f]{{{KEY_LENGTH}}}")


class NoRoomError(OSError):
    """There is no room for another epoch, even without what is not in use."""


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
            if (own_lease := _lease_of(self._folder)) is not None:
                self._resources.enter_context(own_lease)
            with _lock(cache_path):
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
        path = epoch_path(self._folder, epoch)
        num_bytes = num_places * row_bytes
        with _lock(self._cache_path):
            if not path.exists():
                _make_room(self._cache_path, self._folder, num_bytes, self._limit_bytes)
            file = EpochFile(path, row_bytes)
            if file.can_write and path.stat().st_size < num_bytes:
                # Rows that are not written yet take no space on the disk.
                os.truncate(path, num_bytes)
        return file

    def discard(self) -> None:
        """Remove what is stored; processes that have files of it open notice it."""
        with _lock(self._cache_path):
            for path in self._folder.glob(LOGITS_PATTERN):
                path.unlink(missing_ok=True)


def _prepare(folder: Path, key: Key) -> None:
    """Make the folder that of this key, whatever is in it."""
    # Without the right key, nobody knows what the files are; a link may lead anywhere.
    if folder.is_symlink() or key_of_entry(folder) != key:
        remove_tree(folder)
        folder.mkdir()
        write_atomically(folder / KEY_NAME, json.dumps(key, indent=1) + "\n")
    with suppress(OSError):
        os.utime(folder)


def key_of_entry(folder: Path) -> Key | None:
    """The key of the entry in a folder; None where there is none, or it cannot be read."""
    try:
        return read_json(folder / KEY_NAME, KEY_LIMIT_BYTES, dict)
    except (OSError, UnusableFileError):
        return None


def stored_keys(cache_path: Path) -> dict[Path, Key]:
    """The keys of a cache's entries, by folder, as far as they can be read; it is only read."""
    try:
        folders = _entries(cache_path)
    except OSError:
        return {}
    keys = {folder: key_of_entry(folder) for folder in folders}
    return {folder: key for folder, key in keys.items() if key is not None}


def epoch_path(folder: Path, epoch: int) -> Path:
    """The file of an epoch in an entry's folder."""
    return folder / f"epoch-{epoch:04d}.logits"


def _lock(cache_path: Path) -> AbstractContextManager[None]:
    """Hold the lock of the whole folder, which takes a moment; none where it is read-only."""
    return locked(cache_path / LOCK_NAME) if os.access(cache_path, os.W_OK) else nullcontext()


def _lease_of(folder: Path) -> IO[bytes] | None:
    """Protect an entry from eviction until the returned file is closed.

    None where a read-only folder has no lease, as in a copy: nobody there can evict anything.
    """
    path = _lease_path(folder)
    if os.access(folder.parent, os.W_OK):
        return lease(path)
    try:
        return lease(path, "rb")
    except FileNotFoundError:
        return None


def _lease_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lease")


class _Other(NamedTuple):
    """An entry that may be evicted."""

    folder: Path

    def claimed(self) -> AbstractContextManager[bool]:
        """See ``shared_folders.claimed``."""
        return claimed(_lease_path(self.folder))

    def size(self) -> Size:
        """Of its logits."""
        return size_of(self.folder, LOGITS_PATTERN)


def _make_room(cache_path: Path, own: Path, num_bytes: int, limit_bytes: int | None) -> None:
    """Remove the entries that were used least recently until a file of ``num_bytes`` fits.

    Those in use stay, and all of them if removing them would not be enough.
    """
    entries = _entries(cache_path)
    of_limit = 0
    if limit_bytes is not None:
        of_all = sum(size_of(path, LOGITS_PATTERN).num_bytes for path in entries)
        of_limit = num_bytes + of_all - limit_bytes
    shortage = shortage_of(cache_path, of_limit=of_limit, num_growing_bytes=num_bytes)
    others = sorted(set(entries) - {own}, key=lambda path: path.stat().st_mtime)
    with ExitStack() as claims:
        victims, missing = choose_victims(map(_Other, others), shortage, claims)
        if missing.is_any:
            which = "its limit" if missing.of_limit > 0 else "the disk"
            raise NoRoomError(f"{cache_path}: {which} leaves no room for {num_bytes:,} bytes")
        for victim in victims:
            shutil.rmtree(victim.folder, ignore_errors=True)


def _entries(cache_path: Path) -> list[Path]:
    """The folders of all keys; others in the cache's path are ignored."""
    found = [path for path in cache_path.iterdir() if _NAME.fullmatch(path.name)]
    return [path for path in found if is_real_folder(path)]
