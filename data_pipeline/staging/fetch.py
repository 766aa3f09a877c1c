"""Copies one large file in chunks, so that a killed process loses only a few of them.

Chunks are written to the target, flushed to disk, and only then recorded in a log, which names the
dataset that they are of. Chunks that are not in the log are fetched again.
"""

import os
import re
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from data_pipeline.files import is_regular, open_regular, remove_tree
from data_pipeline.staging.remote import RemoteFile, StagingError, explain
from data_pipeline.text import format_bytes

CHUNK_BYTES = 32 << 20
NUM_THREADS = 8
NUM_ATTEMPTS = 3
BACKOFF_S = 1.0
REPORT_INTERVAL_S = 5.0
LOG_LIMIT_BYTES = 16_000_000


# A number of a chunk in the log.
_NUMBER = re.compile(rb"[0-9]{1,9}")


class PartialCopy(NamedTuple):
    """A file that grows to ``num_bytes`` bytes of the dataset with ``fingerprint``."""

    path: Path
    num_bytes: int
    fingerprint: str

    @property
    def log_head(self) -> bytes:
        """The first line of its log of chunks."""
        return f"{self.fingerprint} {self.num_bytes} {CHUNK_BYTES}\n".encode()


def chunk_log_path(target: Path) -> Path:
    """Path of the log of a target's complete chunks."""
    return target.with_name(target.name + ".chunks")


def allocate(copy: PartialCopy) -> None:
    """Give the copy its full size on disk, keeping chunks that an earlier process left.

    Raises:
        OSError: ENOSPC or EDQUOT if the disk cannot hold it, before anything is copied.
    """
    target, log_path = copy.path, chunk_log_path(copy.path)
    is_kept = is_regular(target) and target.lstat().st_size == copy.num_bytes
    if not is_kept or not _is_log_of(copy, log_path):
        # The log first: without it, no chunk of the target counts as copied.
        remove_tree(log_path)
        remove_tree(target)
    with open_regular(target, "r+b", flags=os.O_CREAT) as file:
        os.posix_fallocate(file.fileno(), 0, copy.num_bytes)


def _is_log_of(copy: PartialCopy, log_path: Path) -> bool:
    if not is_regular(log_path):
        return False
    with open_regular(log_path, "rb") as log:
        return bool(log.read(len(copy.log_head)) == copy.log_head)


def fetch(source: RemoteFile, copy: PartialCopy, report: Callable[[str], None]) -> int:
    """Copy the missing chunks of a file into an allocated copy.

    Returns the number of bytes that earlier processes had copied.

    Raises:
        StagingError: a chunk cannot be read in NUM_ATTEMPTS, or the source changes.
        OSError: the target cannot be written, as on a full disk.
    """
    num_bytes = copy.num_bytes
    with ExitStack() as stack:
        log = stack.enter_context(closing(_ChunkLog(copy)))
        descriptor = stack.enter_context(open_regular(copy.path, "r+b")).fileno()
        pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="fetch")
        stack.callback(pool.shutdown, cancel_futures=True)

        def copy_chunk(index: int) -> int:
            offset, size = log.extent(index)
            _write(descriptor, _read(source, offset, size, num_bytes), offset)
            os.fdatasync(descriptor)
            log.add(index)
            return size

        missing = log.missing()
        num_kept = num_bytes - sum(log.extent(index)[1] for index in missing)
        progress = _Progress(Path(source.path).name, num_bytes, num_kept, report)
        pending = {pool.submit(copy_chunk, index) for index in missing}
        while pending:
            done, pending = wait(pending, REPORT_INTERVAL_S, FIRST_EXCEPTION)
            progress.add(sum(future.result() for future in done))
        return num_kept


def _read(source: RemoteFile, offset: int, size: int, num_bytes: int) -> memoryview:
    for attempt in range(1, NUM_ATTEMPTS + 1):
        try:
            data = source.read_range(offset, size)
        except OSError as error:
            if attempt == NUM_ATTEMPTS:
                # If the source was replaced or removed, that error is more useful.
                _check_size(source, num_bytes)
                raise explain(source.location, error) from error
            time.sleep(BACKOFF_S * 2 ** (attempt - 1))
        else:
            break
    if len(data) != size:
        _check_size(source, num_bytes)
        raise StagingError(
            f"{source.location} returned {len(data)} of {size} bytes at {offset}; start again "
            "when nobody writes to it"
        )
    return memoryview(data)


def _check_size(source: RemoteFile, num_bytes: int) -> None:
    num_bytes_now = source.num_bytes()
    if num_bytes_now != num_bytes:
        raise StagingError(
            f"{source.location} changed while it was copied ({num_bytes_now} bytes, before "
            f"{num_bytes}); start again when nobody writes to it"
        )


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        num_written = os.pwrite(descriptor, data, offset)
        data, offset = data[num_written:], offset + num_written


class _ChunkLog:
    """Log of a copy's complete chunks, one per line, after a line with fingerprint and sizes."""

    def __init__(self, copy: PartialCopy):
        self._num_bytes = copy.num_bytes
        self._num_chunks = -(-copy.num_bytes // CHUNK_BYTES)
        self._file = open_regular(chunk_log_path(copy.path), "a+b", buffering=0)
        self._file.seek(0)
        text = self._file.read(LOG_LIMIT_BYTES)
        # A crash of the machine may leave a partial line, which must not become part of the next.
        complete = text[: text.rfind(b"\n") + 1]
        if not complete.startswith(copy.log_head):
            complete = b""
        self._file.truncate(len(complete))
        if not complete:
            self._file.write(copy.log_head)
        lines = complete.splitlines()[1:]
        self._done = {int(line) for line in lines if _NUMBER.fullmatch(line)}

    def extent(self, index: int) -> tuple[int, int]:
        """Offset and size of a chunk in bytes."""
        offset = index * CHUNK_BYTES
        return offset, min(CHUNK_BYTES, self._num_bytes - offset)

    def missing(self) -> list[int]:
        """Chunks that are not on disk yet, in order."""
        return [index for index in range(self._num_chunks) if index not in self._done]

    def add(self, index: int) -> None:
        """Log a chunk whose bytes are on disk; a short append is atomic among threads."""
        self._file.write(f"{index}\n".encode())

    def close(self) -> None:
        """Close the log."""
        self._file.close()


class _Progress:
    """Reports the progress of a copy: bytes, rate, remaining time."""

    def __init__(self, name: str, num_bytes: int, num_kept: int, report: Callable[[str], None]):
        self._name, self._num_bytes, self._num_kept = name, num_bytes, num_kept
        self._report = report
        self._copied_bytes = 0
        self._start_s = time.monotonic()
        if num_kept:
            report(f"{name}: resuming, {format_bytes(num_kept)} already copied")

    def add(self, copied_bytes: int) -> None:
        self._copied_bytes += copied_bytes
        total_bytes = self._num_kept + self._copied_bytes
        rate = self._copied_bytes / max(time.monotonic() - self._start_s, 1e-9)
        text = f"{self._name}: {format_bytes(total_bytes)} of {format_bytes(self._num_bytes)}"
        if rate > 0:
            eta_s = (self._num_bytes - total_bytes) / rate
            text += f", {format_bytes(rate)}/s, ETA {eta_s:.0f} s"
        self._report(text)
