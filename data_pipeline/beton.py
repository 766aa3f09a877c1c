"""The .beton file: FFCV's format of images and labels, read and checked with numpy alone.

Layout (FFCV 1.0, version 2, little-endian): a header, one descriptor per field, one metadata record
per sample, then page-aligned image data, and at the end a table of (sample, position, size). An
image is stored as JPEG or as raw RGB bytes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

VERSION = 2
TYPE_INT, TYPE_IMAGE = 1, 2
MODE_JPEG, MODE_RAW = 0, 1

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
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])


class BetonError(ValueError):
    """A file that is not a usable .beton; the message names it and says what to do."""


@dataclass(frozen=True, eq=False)
class BetonFile:
    """What a .beton says about its samples; the pixels stay on disk.

    ``samples`` is [N] of SAMPLE; ``data_sizes`` is [N], the bytes that each image occupies.
    """

    path: Path
    samples: NDArray[np.void]
    data_sizes: NDArray[np.int64]

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


def open_beton(path: Path) -> BetonFile:
    """Read a file's header and tables.

    Raises:
        BetonError: a file that is missing, of another format, truncated, or that holds anything but
            one image and one integer label per sample.
    """
    try:
        num_bytes = path.stat().st_size
        header = _read(path, HEADER, 1, 0)[0]
        if header["version"] != VERSION or not 0 < header["num_fields"] < 100:
            raise BetonError(f"{path} is not a .beton file; make one with jobs/convert.py")
        fields = _read(path, FIELD, int(header["num_fields"]), HEADER.itemsize)
        if list(fields["type_id"]) != [TYPE_IMAGE, TYPE_INT]:
            raise BetonError(
                f"{path} has fields of types {fields['type_id'].tolist()}; a dataset here is one "
                "image field followed by one integer field: convert it with jobs/convert.py"
            )
        samples = _read(path, SAMPLE, int(header["num_samples"]), HEADER.itemsize + fields.nbytes)
        table_start = int(header["alloc_table_ptr"])
        count = (num_bytes - table_start) // ALLOCATION.itemsize if table_start else -1
        if len(samples) == 0 or count < len(samples):
            raise BetonError(f"{path} is truncated or empty; convert it again")
        table = _read(path, ALLOCATION, len(samples), table_start)
    except OSError as error:
        raise BetonError(
            f"{path} cannot be read ({error.strerror}); give an existing file"
        ) from error
    return BetonFile(path, samples, _data_sizes(path, samples, table))


def _read(path: Path, dtype: np.dtype, count: int, offset: int) -> NDArray[np.void]:
    records = np.fromfile(path, dtype=dtype, count=count, offset=offset)
    if len(records) != count:
        raise BetonError(f"{path} is truncated or not a .beton file; convert it again")
    return records


def _data_sizes(
    path: Path, samples: NDArray[np.void], table: NDArray[np.void]
) -> NDArray[np.int64]:
    by_sample = np.empty(len(samples), dtype=np.int64)
    if table["sample_id"].max() >= len(samples):
        raise BetonError(f"{path} has a damaged allocation table; convert it again")
    by_sample[table["sample_id"]] = table["size"]
    ends = samples["image"]["data_ptr"] + by_sample.astype(np.uint64)
    if ends.max() > path.stat().st_size:
        raise BetonError(f"{path} is truncated: image data ends past its end; convert it again")
    return by_sample
