"""Whether the tables of a .beton can be true: checked when it is opened, before anything uses them.

Everything that reads such a file, also the numba code that decodes it, relies on these checks.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 1 << 26
"""Of one image: decoded, it takes 4 bytes for each, and 6 more if it is a progressive JPEG."""
MAX_IMAGE_BYTES = 3 * MAX_PIXELS
MAX_CLASSES = 1_000_000


class Tables(NamedTuple):
    """The tables of a file, and where they are.

    ``samples``: [N] of SAMPLE. ``allocations``: [N] of ALLOCATION. ``is_raw`` and ``is_jpeg``: [N],
    whether the image is stored so. ``data_start`` and ``data_end``: where the tables before the
    images end and the one after them begins, in bytes. ``page_size``: in bytes; FFCV reads each
    image from one page.
    """

    samples: NDArray[np.void]
    allocations: NDArray[np.void]
    is_raw: NDArray[np.bool_]
    is_jpeg: NDArray[np.bool_]
    data_start: int
    data_end: int
    page_size: int


def find_fault(tables: Tables) -> str | None:
    """What cannot be true, with the sample it is about; None if the tables fit each other."""
    if tables.page_size.bit_count() != 1:
        return f"its page size is {tables.page_size:,} bytes, which is not a power of 2"
    ids = tables.allocations["sample_id"]
    count = len(tables.samples)
    if ids.max() >= count or not np.array_equal(np.sort(ids), np.arange(count, dtype=np.uint64)):
        return "the allocation table does not name each sample once"
    sizes = np.empty(count, np.uint64)
    sizes[ids.astype(np.int64)] = tables.allocations["size"]
    pointers = np.empty(count, np.uint64)
    pointers[ids.astype(np.int64)] = tables.allocations["ptr"]
    return _fault_of_images(tables, sizes, pointers) or _fault_of_order(tables, sizes)


def _fault_of_images(
    tables: Tables, sizes: NDArray[np.uint64], pointers: NDArray[np.uint64]
) -> str | None:
    """The fault of one sample alone; ``sizes`` and ``pointers``, [N], are in bytes."""
    images, labels = tables.samples["image"], tables.samples["label"]
    starts = images["data_ptr"]
    num_pixels = images["width"].astype(np.uint64) * images["height"].astype(np.uint64)
    # Both are below 2^63 where the sum is used: the order of the checks matters.
    is_outside = (starts < tables.data_start) | (starts > tables.data_end)
    is_outside |= sizes > tables.data_end
    is_outside |= np.where(is_outside, 0, starts + sizes) > tables.data_end
    checks = (
        (~(tables.is_raw | tables.is_jpeg), "is neither JPEG nor raw pixels"),
        (num_pixels == 0, "has no pixels: its width or height is 0"),
        (num_pixels > MAX_PIXELS, f"has more than {MAX_PIXELS:,} pixels"),
        ((labels < 0) | (labels >= MAX_CLASSES), f"has no label from 0 to {MAX_CLASSES - 1:,}"),
        (is_outside, "has image data outside the part of the file for images"),
        (pointers != starts, "has another position in the allocation table"),
        (sizes == 0, "has no image data"),
        (sizes > MAX_IMAGE_BYTES, f"has more than {MAX_IMAGE_BYTES:,} bytes"),
        (
            tables.is_raw & (sizes != 3 * num_pixels),
            "has raw pixels whose number of bytes is not that of its width and height",
        ),
        # Pages are powers of two: within one, the first and last byte differ in the low bits only.
        (
            (starts ^ (starts + sizes - np.uint64(1))) >= tables.page_size,
            f"is not within one page of {tables.page_size:,} bytes",
        ),
    )
    for is_wrong, fault in checks:
        if is_wrong.any():
            return f"sample {int(np.argmax(is_wrong)):,} {fault}"
    return None


def _fault_of_order(tables: Tables, sizes: NDArray[np.uint64]) -> str | None:
    starts = tables.samples["image"]["data_ptr"]
    order = np.argsort(starts, kind="stable")
    ends = (starts + sizes)[order]
    overlaps = starts[order][1:] < ends[:-1]
    if not overlaps.any():
        return None
    at = int(np.argmax(overlaps))
    return f"the images of samples {int(order[at]):,} and {int(order[at + 1]):,} overlap"
