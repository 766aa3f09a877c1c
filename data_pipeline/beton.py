"""The .beton file: FFCV's format of images and labels, read and checked with numpy alone.

Layout (FFCV 1.0, version 2, little-endian): a header, one descriptor per field, one metadata record
per sample, then page-aligned image data, and at the end a table of (sample, position, size). An
image is stored as JPEG or as raw RGB bytes.

Files written here also have digests, in the gap before the first page, which FFCV does not read:
DIGEST_MAGIC, then a record of two digests of each sample. That of its stored bytes finds damage;
both of them find the same image in another file, also where it is stored in another way.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.beton_checks import Tables, find_fault

VERSION = 2
TYPE_INT, TYPE_IMAGE = 1, 2
MODE_JPEG, MODE_RAW = 0, 1
# In bytes, of the files that are written here.
PAGE_SIZE = 1 << 23

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD = np.dtype(
    [("type_id", "<u1"), ("name", "<u1", (16,)), ("arguments", "<u1", (1, 1024))], align=True
)
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
SAMPLE = np.dtype([("image", IMAGE), ("label", "<i8")], align=True)
DIGEST_MAGIC = b"SHA256/8"
# Digests of an image: of the bytes stored in this file, and of the bytes of its source.
DIGEST = np.dtype([("stored", "<u8"), ("source", "<u8")])
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])


class BetonError(ValueError):
    """A file that is not a usable .beton; the message names it and the remedy."""


@dataclass(frozen=True, eq=False)
class BetonFile:
    """The tables of a .beton; the pixels stay on disk.

    Attributes:
        samples: [N] of SAMPLE; ``data_ptr`` is a position in the file in bytes.
        data_sizes: [N], the bytes that each image occupies.
        digests: [N] of DIGEST, None in a file that FFCV wrote.
        fingerprint: SHA-256 digest of all tables, 64 hexadecimal digits; with digests it covers
            every pixel.
    """

    path: Path
    samples: NDArray[np.void]
    data_sizes: NDArray[np.int64]
    digests: NDArray[np.void] | None
    fingerprint: str

    @property
    def num_samples(self) -> int:
        """Number of images."""
        return len(self.samples)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image, [N]."""
        return np.ascontiguousarray(self.samples["label"])

    @property
    def image_sizes(self) -> NDArray[np.int64]:
        """Height and width of each image in pixels, [N, 2]."""
        images = self.samples["image"]
        return np.stack([images["height"], images["width"]], axis=1).astype(np.int64)

    def storage(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows [B, 5] of samples: mode; height, width in pixels; position, size in bytes."""
        images = self.samples["image"][indices]
        columns = [images[name] for name in ("mode", "height", "width", "data_ptr")]
        return np.stack([*columns, self.data_sizes[indices]], axis=1).astype(np.int64)


def open_beton(path: Path) -> BetonFile:
    """Read a file's header and tables.

    Raises:
        BetonError: a file that is missing, of another format, truncated, that holds anything but
            one image and one integer label per sample, or whose tables cannot be true.
    """
    try:
        return _read_tables(path)
    except OSError as error:
        raise BetonError(
            f"{path} cannot be read ({error.strerror}); give an existing file"
        ) from error


def digest(data: bytes) -> int:
    """The first 64 bits of an image's SHA-256: enough to tell millions of images apart."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


def _read_tables(path: Path) -> BetonFile:
    header = _read(path, HEADER, 1, 0)
    count, num_fields = int(header["num_samples"][0]), int(header["num_fields"][0])
    if header["version"][0] != VERSION or not 0 < num_fields < 100:
        raise BetonError(f"{path} is not a .beton file; make one with jobs/convert.py")
    fields = _read(path, FIELD, num_fields, HEADER.itemsize)
    if list(fields["type_id"]) != [TYPE_IMAGE, TYPE_INT]:
        raise BetonError(
            f"{path} has fields of types {fields['type_id'].tolist()}; a dataset here is one "
            "image field followed by one integer field: convert it with jobs/convert.py"
        )
    samples_start = HEADER.itemsize + fields.nbytes
    samples = _read(path, SAMPLE, count, samples_start)
    table_start = int(header["alloc_table_ptr"][0])
    num_allocations = (path.stat().st_size - table_start) // ALLOCATION.itemsize
    if count == 0 or table_start == 0 or num_allocations < count:
        raise BetonError(f"{path} is truncated or empty; convert it again")
    allocations = _read(path, ALLOCATION, count, table_start)
    digests = _read_digests(path, samples_start + samples.nbytes, count)
    fingerprint = hashlib.sha256()
    for table in (header, fields, samples, allocations, digests):
        if table is not None:
            fingerprint.update(table.data)
    modes = samples["image"]["mode"]
    data_start = samples_start + samples.nbytes
    if digests is not None:
        data_start += len(DIGEST_MAGIC) + digests.nbytes
    is_raw, is_jpeg = modes == MODE_RAW, modes == MODE_JPEG
    page_size = int(header["page_size"][0])
    tables = Tables(samples, allocations, is_raw, is_jpeg, data_start, table_start, page_size)
    sizes = _checked_sizes(path, tables)
    return BetonFile(path, samples, sizes, digests, fingerprint.hexdigest())


def _read_digests(path: Path, start: int, count: int) -> NDArray[np.void] | None:
    with path.open("rb") as file:
        file.seek(start)
        if file.read(len(DIGEST_MAGIC)) != DIGEST_MAGIC:
            return None
    return _read(path, DIGEST, count, start + len(DIGEST_MAGIC))


def _read(path: Path, dtype: np.dtype, count: int, offset: int) -> NDArray[np.void]:
    # Checked first, so that a damaged count does not become a huge allocation.
    if offset + count * dtype.itemsize > path.stat().st_size:
        raise BetonError(f"{path} is truncated or not a .beton file; convert it again")
    return np.fromfile(path, dtype, count, offset=offset)


def _checked_sizes(path: Path, tables: Tables) -> NDArray[np.int64]:
    """Bytes that each image occupies, [N], of tables that fit each other."""
    if fault := find_fault(tables):
        raise BetonError(f"{path} is damaged: {fault}; copy or convert it again")
    sizes = np.empty(len(tables.samples), dtype=np.int64)
    sizes[tables.allocations["sample_id"].astype(np.int64)] = tables.allocations["size"]
    return sizes
