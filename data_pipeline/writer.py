"""Writes .beton files sample by sample, so that equal input gives equal bytes.

FFCV's own DatasetWriter passes samples to processes in no fixed order, hangs on an unreadable image
and leaves a partial file at the final path. Here a file is written under a temporary name and
renamed when it is complete. FFCV's loader can read it.
"""

import ctypes
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from data_pipeline.beton import (
    ALLOCATION,
    DIGEST,
    DIGEST_MAGIC,
    FIELD,
    HEADER,
    PAGE_SIZE,
    SAMPLE,
    TYPE_IMAGE,
    TYPE_INT,
    VERSION,
)
from data_pipeline.encode import EncodedImage
from data_pipeline.files import open_regular

SYNC_INTERVAL_BYTES = 1 << 24
SYNC_FILE_RANGE_WRITE = 2


class BetonWriter:
    """Appends images to a new file; use as a context manager.

    The tables precede the pixels, so the maximum number of samples must be known in advance.
    ``page_size`` is in bytes. Leaving the context with an error removes what was written; the final
    path only ever has a complete file.

    Raises:
        ValueError: on entry, if another process is writing to this path.
        OSError: the storage fails.
    """

    def __init__(self, path: Path, max_samples: int, page_size: int = PAGE_SIZE):
        self._path = path
        self.partial_path = path.with_name(path.name + ".partial")
        """Where the file is written; it is complete there after ``complete``."""
        self._samples = np.zeros(max_samples, SAMPLE)
        self._allocations = np.zeros(max_samples, ALLOCATION)
        self._digests = np.zeros(max_samples, DIGEST)
        self._page_size = page_size
        self._count = 0
        tables_end = HEADER.itemsize + 2 * FIELD.itemsize + self._samples.nbytes
        digests_end = tables_end + len(DIGEST_MAGIC) + self._digests.nbytes
        self._position = _align(digests_end, page_size)
        self._end = self._synced = 0
        self._is_complete = False

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # The partial file of a killed conversion is overwritten; a running one holds the lock.
        self._file = open_regular(self.partial_path, "r+b", flags=os.O_CREAT)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ValueError(
                f"{self._path} is being written by another conversion; wait for it, or give "
                "another path"
            ) from None
        self._file.truncate(0)
        return self

    def append(self, image: EncodedImage, label: int) -> None:
        """Add the next sample; ``label`` is its class index.

        Raises:
            ValueError: an image larger than a page.
        """
        size = len(image.data)
        if size > self._page_size:
            raise ValueError(
                f"an image of {size} bytes exceeds the page of {self._page_size}; "
                "limit the images' size or store them as JPEG"
            )
        # FFCV reads whole pages: no image may straddle two.
        if self._position % self._page_size + size > self._page_size:
            self._position = _align(self._position, self._page_size)
        # Only over a gap: a seek flushes what is buffered.
        if self._position != self._end:
            self._file.seek(self._position)
        self._file.write(image.data)
        record = (image.mode, image.width, image.height, self._position)
        self._samples[self._count] = (record, label)
        self._digests[self._count] = (image.stored_digest, image.source_digest)
        self._allocations[self._count] = (self._count, self._position, size)
        self._position += size
        self._end = self._position
        self._start_sync()
        self._count += 1

    def _start_sync(self) -> None:
        """Write to the disk while images are encoded, so that the final sync is short."""
        num_bytes = self._position - self._synced
        if num_bytes < SYNC_INTERVAL_BYTES:
            return
        self._file.flush()
        # A hint, whose failure does not matter: ``complete`` syncs everything.
        ctypes.CDLL(None).sync_file_range(
            self._file.fileno(),
            ctypes.c_int64(self._synced),
            ctypes.c_int64(num_bytes),
            SYNC_FILE_RANGE_WRITE,
        )
        self._synced = self._position

    def complete(self) -> None:
        """Write the tables and wait for the disk; nothing may be appended afterwards.

        Leaving the context does this too, and renames the file.
        """
        if self._is_complete:
            return
        self._is_complete = True
        self._write_tables()
        self._file.flush()
        os.fsync(self._file.fileno())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.complete()
                self.partial_path.replace(self._path)
        finally:
            self.partial_path.unlink(missing_ok=True)
            self._file.close()

    def _write_tables(self) -> None:
        end = _align(self._position, self._page_size)
        header = np.zeros(1, HEADER)
        header["version"], header["num_fields"] = VERSION, 2
        header["page_size"], header["num_samples"] = self._page_size, self._count
        header["alloc_table_ptr"] = end
        fields = np.zeros(2, FIELD)
        for field, name, type_id in zip(
            fields, (b"image", b"label"), (TYPE_IMAGE, TYPE_INT), strict=True
        ):
            field["type_id"] = type_id
            field["name"][: len(name)] = np.frombuffer(name, np.uint8)
        self._file.seek(0)
        for table in (header, fields, self._samples[: self._count]):
            self._file.write(table.tobytes())
        self._file.write(DIGEST_MAGIC + self._digests[: self._count].tobytes())
        self._file.seek(end)
        self._file.write(self._allocations[: self._count].tobytes())


def _align(position: int, page_size: int) -> int:
    return -(-position // page_size) * page_size
