"""Reads the next rows and writes the last ones on threads, so that no step waits for the storage.

Threads never fail: what cannot be read counts as absent, and the first error of writing is kept.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from service.teacher_cache.epoch_file import EpochFile

MAX_PENDING = 16
"""Batches that wait to be written; more are not stored, so that memory stays bounded."""


class Arrival(Protocol):
    """When the rows of a batch have arrived in the host's memory, such as a CUDA event."""

    def synchronize(self) -> None:
        """Wait for it."""


class RowReader:
    """Reads the rows of batches, one ahead; into pinned memory for copies to a GPU."""

    def __init__(self, row_bytes: int, *, pin_memory: bool):
        self._row_bytes, self._pin_memory = row_bytes, pin_memory
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="teacher-cache-read")
        self._ahead: tuple[tuple[EpochFile, int, int], Future[Tensor | None]] | None = None

    def read(self, file: EpochFile, first_place: int, count: int) -> Tensor | None:
        """Rows [count, row_bytes], uint8, from a place on; None if one of them is not valid."""
        wanted = (file, first_place, count)
        if self._ahead is None or self._ahead[0] != wanted:
            self.read_ahead(*wanted)
        assert self._ahead is not None
        return self._ahead[1].result()

    def read_ahead(self, file: EpochFile, first_place: int, count: int) -> None:
        """Start to read what will be asked for next."""
        wanted = (file, first_place, count)
        self._ahead = (wanted, self._pool.submit(self._read, *wanted))

    def settle(self) -> None:
        """Wait for what is being read, before its file is closed."""
        if self._ahead is not None:
            self._ahead[1].result()
            self._ahead = None

    def _read(self, file: EpochFile, first_place: int, count: int) -> Tensor | None:
        shape = (count, self._row_bytes)
        rows = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pin_memory)
        try:
            return rows if file.read(first_place, rows.numpy()) else None
        except OSError:
            return None

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class RowWriter:
    """Writes rows in the order in which they come."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="teacher-cache-write")
        self._pending: deque[Future[None]] = deque()
        self.error: OSError | None = None
        """The first error; nothing is written after it."""

    def write(
        self, file: EpochFile, first_place: int, rows: Tensor, arrival: Arrival | None
    ) -> None:
        """Store rows [B, row_bytes] in the host's memory, once they have arrived there."""
        while self._pending and self._pending[0].done():
            self._pending.popleft()
        if self.error is None and len(self._pending) < MAX_PENDING:
            self._pending.append(self._pool.submit(self._write, file, first_place, rows, arrival))

    def _write(
        self, file: EpochFile, first_place: int, rows: Tensor, arrival: Arrival | None
    ) -> None:
        if arrival is not None:
            arrival.synchronize()
        if self.error is None:
            try:
                file.write(first_place, rows.numpy())
            except OSError as error:
                self.error = error

    def flush(self) -> None:
        """Wait until everything is written."""
        while self._pending:
            self._pending.popleft().result()

    def close(self) -> None:
        """Write everything and end the thread."""
        self._pool.shutdown(wait=True)
