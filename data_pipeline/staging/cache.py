"""Node-local folder of datasets, shared by the processes of a node through file locks.

A dataset is CACHE/<key>/NAME.beton with NAME.beton.json; the key is the first KEY_LENGTH digits of
its fingerprint. The process that stages it locks CACHE/<key>.lock exclusively; processes that read
it hold CACHE/<key>.lease as a shared lock. The kernel releases the locks of a process that dies.

Others may write to the folder too: nothing in it is trusted before it was compared with the
manifest of the dataset that was asked for, and neither links nor FIFOs are opened.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from data_pipeline.files import is_regular
from data_pipeline.json_files import UnusableFileError, read_json
from data_pipeline.manifest import LIMIT_BYTES, manifest_path
from data_pipeline.shared_folders import Size, claimed, is_real_folder, lease, locked, size_of

KEY_LENGTH = 32

_KEY = re.compile(f"[0-9a-f]{{{KEY_LENGTH}}}")


@dataclass(frozen=True)
class Cache:
    """The folder of datasets on a node.

    ``limit_bytes``: maximum size of all datasets together; None for no limit but the disk's.
    """

    path: Path
    limit_bytes: int | None = None

    def entry(self, fingerprint: str) -> "Entry":
        """The entry of the dataset with this fingerprint."""
        return Entry(self.path, fingerprint[:KEY_LENGTH])

    def entries(self) -> list["Entry"]:
        """All datasets here, complete or partial; other folders in the cache's path are ignored."""
        names = [child.name for child in self.path.iterdir() if is_real_folder(child)]
        return [Entry(self.path, name) for name in names if _KEY.fullmatch(name)]


@dataclass(frozen=True)
class Entry:
    """One dataset's folder and locks; ``key`` names both.

    Raises:
        OSError: by any method, if the cache's disk fails.
    """

    cache_path: Path
    key: str

    @property
    def folder(self) -> Path:
        """Folder of the dataset's files."""
        return self.cache_path / self.key

    def find(self) -> Path | None:
        """The .beton whose manifest says that it belongs to this key; None if there is none."""
        for path in sorted(self.folder.glob("*.beton")) if is_real_folder(self.folder) else ():
            fingerprint = stored_manifest(path).get("fingerprint")
            if is_regular(path) and str(fingerprint)[:KEY_LENGTH] == self.key:
                return path
        return None

    def size(self) -> Size:
        """Of the files."""
        return size_of(self.folder)

    def last_use_s(self) -> float:
        """When the dataset was used last, in seconds since 1970."""
        return self.folder.stat().st_mtime

    def touch(self) -> None:
        """Record that the dataset is used now."""
        os.utime(self.folder)

    def remove(self) -> None:
        """Delete the files; a process that has one open can still read it."""
        if is_real_folder(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            self.folder.unlink(missing_ok=True)

    @contextmanager
    def staging(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold the entry's lock, so that no other process changes it; waits for the lock."""
        with locked(self._lock_path, on_wait):
            yield

    def lease(self) -> IO[bytes]:
        """Protect the entry from eviction until the returned file is closed."""
        return lease(self._lease_path)

    def claimed(self) -> AbstractContextManager[bool]:
        """Yield whether no process stages or reads the entry; none can start within the context."""
        return claimed(self._lock_path, self._lease_path)

    @property
    def _lock_path(self) -> Path:
        return self.cache_path / f"{self.key}.lock"

    @property
    def _lease_path(self) -> Path:
        return self.cache_path / f"{self.key}.lease"


def stored_manifest(path: Path) -> dict[str, Any]:
    """The manifest beside a .beton of the cache; empty if there is none, or no readable one."""
    try:
        return read_json(manifest_path(path), LIMIT_BYTES, dict)
    except (OSError, UnusableFileError):
        return {}
