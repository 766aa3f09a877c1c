"""The file with an epoch's logits: a row for each place in the epoch's order.

A row starts with the checksum of the rest, and is valid if it has the right one: a row that was
never written has none, and a writer that is killed loses the row that it was writing. Workers write
disjoint places of one file; where two runs do it at the same time, one of them has the lock of a
range of bytes, and the other leaves it alone.

Rows are read into memory that the caller owns, not mapped into the address space: reading a mapped
page that a failing disk or a truncated file cannot provide kills the process, and memory for copies
to a GPU must be pinned. Either way the system's page cache is shared by all processes of a node.
"""

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.files import open_regular
from service.spec.teacher_cache import CHECKSUM_BYTES

Rows = NDArray[np.uint8]


class EpochFile:
    """Rows of ``row_bytes`` bytes at ``path``, which is created if it does not exist.

    Any method raises OSError where the storage fails.
    """

    def __init__(self, path: Path, row_bytes: int):
        self._row_bytes = row_bytes
        self._salt = zlib.crc32(f"{path.parent.name}/{path.name}".encode())
        self._can_write = True
        try:
            self._file = open_regular(path, "r+b", 0, os.O_CREAT)
        except OSError:
            # The file may be there on storage that is read-only.
            self._file = open_regular(path, "rb", 0)
            self._can_write = False

    @property
    def can_write(self) -> bool:
        """Whether the storage takes rows."""
        return self._can_write

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, first_place: int, rows: Rows) -> bool:
        """Fill ``rows`` [B, row_bytes] with those from a place on; returns whether all are valid.

        Rows of a file that was removed meanwhile are not.
        """
        descriptor = self._file.fileno()
        if os.fstat(descriptor).st_nlink == 0:
            return False
        num_read = os.preadv(descriptor, [rows.data], first_place * self._row_bytes)
        return num_read == rows.nbytes and self._are_valid(rows, first_place)

    def write(self, first_place: int, rows: Rows) -> None:
        """Store ``rows`` [B, row_bytes], whose checksums are filled in, from a place on.

        Nothing is done if they are there already, or another process writes some of them.
        """
        start, present = first_place * self._row_bytes, np.empty_like(rows)
        with self._locked(start, rows.nbytes) as is_locked:
            if is_locked and not self.read(first_place, present):
                checksums = np.array(list(self._checksums(rows, first_place)), np.uint32)
                rows[:, :CHECKSUM_BYTES] = checksums[:, None].view(np.uint8)
                _write_all(self._file.fileno(), rows.data.cast("B"), start)

    def _are_valid(self, rows: Rows, first_place: int) -> bool:
        stored = np.ascontiguousarray(rows[:, :CHECKSUM_BYTES]).view(np.uint32)[:, 0].tolist()
        # Most often the first one is 0: nothing was written yet.
        return all(map(int.__eq__, stored, self._checksums(rows, first_place)))

    def _checksums(self, rows: Rows, first_place: int) -> Iterator[int]:
        """CRC-32 of each row without its checksum; never 0.

        It starts with the row's place, epoch and key: a row of another one is not valid.
        """
        for place, row in enumerate(rows, first_place):
            yield zlib.crc32(row[CHECKSUM_BYTES:], self._salt ^ place) or 1

    @contextlib.contextmanager
    def _locked(self, start: int, num_bytes: int) -> Iterator[bool]:
        """Hold the lock of a range of bytes, or yield False if another process has some of it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, num_bytes, start)
        except (BlockingIOError, PermissionError):
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, num_bytes, start)


def _write_all(descriptor: int, content: memoryview, start: int) -> None:
    while content:
        num_written = os.pwrite(descriptor, content, start)
        content, start = content[num_written:], start + num_written
