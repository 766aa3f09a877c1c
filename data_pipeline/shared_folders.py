"""Folders that several processes use at the same time, and that are evicted when nobody does.

Each has files beside it that are only there to be locked. The kernel releases the locks of a
process that dies.
"""

import fcntl
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple, Protocol, TypeVar

from data_pipeline.files import open_regular

MARGIN_BYTES = 1 << 30
"""Left free on a disk, or a hundredth of it if that is less."""
BLOCK_BYTES = 512


class Size(NamedTuple):
    """Bytes of files, and those of the disk that removing them would free.

    These are fewer where parts were never written.
    """

    num_bytes: int
    num_allocated_bytes: int


class Shortage(NamedTuple):
    """Missing bytes within a limit and on the disk; not positive where there are enough."""

    of_limit: int
    of_disk: int

    @property
    def is_any(self) -> bool:
        """Whether something is missing."""
        return self.of_limit > 0 or self.of_disk > 0

    def after(self, freed: Size) -> "Shortage":
        """What is missing when this much was removed."""
        return Shortage(self.of_limit - freed.num_bytes, self.of_disk - freed.num_allocated_bytes)


class Evictable(Protocol):
    """A folder that can be removed while nobody uses it."""

    def claimed(self) -> AbstractContextManager[bool]:
        """See ``claimed``."""

    def size(self) -> Size:
        """Of its files."""


Folder = TypeVar("Folder", bound=Evictable)


def shortage_of(path: Path, *, of_limit: int, num_growing_bytes: int) -> Shortage:
    """What is missing for this many more bytes on the disk of ``path``, and of a limit."""
    disk = shutil.disk_usage(path)
    margin_bytes = min(disk.total // 100, MARGIN_BYTES)
    return Shortage(of_limit, num_growing_bytes + margin_bytes - disk.free)


def choose_victims(
    folders: Iterable[Folder], shortage: Shortage, claims: ExitStack
) -> tuple[list[Folder], Shortage]:
    """The first of these that nobody uses, as many as it takes, and what is missing without them.

    They stay claimed in ``claims``.
    """
    victims = []
    for folder in folders:
        if shortage.is_any and claims.enter_context(folder.claimed()):
            victims.append(folder)
            shortage = shortage.after(folder.size())
    return victims, shortage


def size_of(folder: Path, pattern: str = "*") -> Size:
    """Of the files in a folder whose names match."""
    statuses = []
    for path in folder.glob(pattern):
        # The process that uses the folder may rename or remove a file meanwhile.
        with suppress(FileNotFoundError):
            statuses.append(path.lstat())
    num_blocks = sum(status.st_blocks for status in statuses)
    return Size(sum(status.st_size for status in statuses), num_blocks * BLOCK_BYTES)


def is_real_folder(path: Path) -> bool:
    """Whether there is a folder at ``path``, not a link to one."""
    return path.is_dir() and not path.is_symlink()


def lease(path: Path, mode: str = "ab") -> IO[bytes]:
    """Hold a shared lock of a file, which is the use of a folder, until the file is closed.

    Raises:
        OSError: the file cannot be opened or locked.
    """
    file = open_regular(path, mode)
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


@contextmanager
def claimed(*paths: Path) -> Iterator[bool]:
    """Yield whether no process has a lock of these files; none can get one within the context.

    A folder whose files cannot be opened counts as used.
    """
    with ExitStack() as stack:
        try:
            for path in paths:
                file = stack.enter_context(open_regular(path, "ab"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


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
