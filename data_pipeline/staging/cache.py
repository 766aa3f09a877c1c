"""Node-local folder of datasets, shared by the processes of a node through file locks.

A dataset is CACHE/<key>/NAME.beton with NAME.beton.json; the key is the first KEY_LENGTH digits of
its fingerprint. The process that stages it locks CACHE/<key>.lock exclusively; processes that read
it hold CACHE/<key>.lease as a shared lock. The kernel releases the locks of a process that dies.

Others may write to the folder too: nothing in it is trusted before it was compared with the
manifest of the dataset that was asked for, and neither links nor FIFOs are opened.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from data_pipeline.files import is_regular, open_regular
from data_pipeline.json_files import UnusableFileError, read_json
from data_pipeline.manifest import LIMIT_BYTES, manifest_path

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

    def num_bytes(self) -> int:
        """Sum of the files' sizes in bytes."""
        return sum(stat.st_size for stat in self._stats())

    def num_allocated_bytes(self) -> int:
        """Bytes of disk that removing the files would free."""
        return sum(stat.st_blocks * 512 for stat in self._stats())

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
        with locked(self.cache_path / f"{self.key}.lock", on_wait):
            yield

    def lease(self) -> IO[bytes]:
        """Protect the entry from eviction until the returned file is closed."""
        lease = open_regular(self._lease_path, "ab")
        fcntl.flock(lease, fcntl.LOCK_SH)
        return lease

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """Yield whether no process stages or reads the entry; none can start within the context.

        An entry whose locks cannot be opened counts as used.
        """
        with ExitStack() as stack:
            try:
                for path in (self.cache_path / f"{self.key}.lock", self._lease_path):
                    file = stack.enter_context(open_regular(path, "ab"))
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True

    def _stats(self) -> Iterator[os.stat_result]:
        for path in self.folder.glob("*"):
            # The process that stages the entry may rename or remove a file meanwhile.
            with suppress(FileNotFoundError):
                yield path.lstat()

    @property
    def _lease_path(self) -> Path:
        return self.cache_path / f"{self.key}.lease"


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a file's exclusive lock; ``on_wait`` is called once if another process has it.

    Raises:
        OSError: the file cannot be created or locked.
    """
    with open_regular(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_real_folder(path: Path) -> bool:
    """Whether there is a folder at ``path``, not a link to one."""
    return path.is_dir() and not path.is_symlink()


def stored_manifest(path: Path) -> dict[str, Any]:
    """The manifest beside a .beton of the cache; empty if there is none, or no readable one."""
    try:
        return read_json(manifest_path(path), LIMIT_BYTES, dict)
    except (OSError, UnusableFileError):
        return {}
