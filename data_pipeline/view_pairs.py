"""The weak and the strong view of samples, cut from the same bytes, which are read once.

Both views have the same kind of crop, and each draws its own: the weak view's random numbers, and
so its pixels, are those of a batch of one view (see ``decoders.decode_samples``).
"""

import numpy as np
from numba import types
from numpy.typing import NDArray

from data_pipeline.beton import MODE_JPEG
from data_pipeline.compiled.compilation import compiled
from data_pipeline.compiled.counter_rng import STRONG_VIEW, WEAK_VIEW, sample_key
from data_pipeline.decoders import (
    DECODED,
    PAD_AND_CROP,
    UNREADABLE,
    decode_sample,
    is_mirrored,
    read_bytes,
    resized_view,
)

# Pointers are passed as integers of their size. The library is loaded by ``decoders``.
_view_jpeg_twice = types.ExternalFunction(
    "pixels_view_jpeg_twice",
    types.int32(
        *(types.uintp, types.int64, types.int64, types.int64, types.uintp),
        *(types.int32, types.int32, types.uintp, types.uintp),
    ),
)


@compiled
def cut_jpeg_twice(
    stored: NDArray[np.uint8],
    row: NDArray[np.int64],
    views: NDArray[np.int64],
    mirrored: tuple[bool, bool],
    weak: NDArray[np.uint8],
    strong: NDArray[np.uint8],
) -> int:
    """Write two ``views`` [2, 10] (see ``decoders``) of a JPEG to ``weak`` and ``strong``.

    It is decoded once: the part that covers both. ``stored`` and ``row`` [5]: see
    ``decode_sample``; ``mirrored``: which are flipped horizontally; ``weak`` and ``strong``: [S, S,
    3]. Returns DECODED, DAMAGED or NO_MEMORY.
    """
    return _view_jpeg_twice(
        stored.ctypes.data, len(stored), row[1], row[2], views.ctypes.data, mirrored[0],
        mirrored[1], weak.ctypes.data, strong.ctypes.data,
    )  # fmt: skip


@compiled
def decode_pair(
    stored: NDArray[np.uint8],
    row: NDArray[np.int64],
    kind: int,
    parameters: NDArray[np.float64],
    keys: tuple[np.uint64, np.uint64],
    weak: NDArray[np.uint8],
    strong: NDArray[np.uint8],
) -> int:
    """Both views of one image to ``weak`` and ``strong`` [S, S, 3] uint8 RGB.

    ``keys``: those of the weak and the strong view's random numbers. All else, and the status that
    is returned: see ``decode_sample``.
    """
    if row[0] == MODE_JPEG and kind != PAD_AND_CROP:
        size = weak.shape[0]
        views = np.empty((2, 10), np.int64)
        views[0] = resized_view(row[1], row[2], kind, parameters, keys[0], size)
        views[1] = resized_view(row[1], row[2], kind, parameters, keys[1], size)
        mirrored = is_mirrored(parameters, keys[0]), is_mirrored(parameters, keys[1])
        return cut_jpeg_twice(stored, row, views, mirrored, weak, strong)
    status = decode_sample(stored, row, kind, parameters, keys[0], weak)
    if status != DECODED:
        return status
    return decode_sample(stored, row, kind, parameters, keys[1], strong)


@compiled
def decode_pairs(
    file_descriptor: int,
    rows: NDArray[np.int64],
    indices: NDArray[np.int64],
    kind: int,
    parameters: NDArray[np.float64],
    seed: int,
    epoch: int,
    weak: NDArray[np.uint8],
    strong: NDArray[np.uint8],
    statuses: NDArray[np.int8],
) -> None:
    """Read each sample once and cut both of its views, into ``weak`` and ``strong`` [B, S, S, 3].

    All else: see ``decoders.decode_samples``. A sample of which one view does not decode counts as
    one that does not decode.
    """
    buffer = np.empty(rows[:, 4].max(), np.uint8)
    for slot in range(len(indices)):
        stored = buffer[: rows[slot, 4]]
        if not read_bytes(file_descriptor, rows[slot, 3], stored):
            statuses[slot] = UNREADABLE
            continue
        keys = (
            sample_key(seed, epoch, indices[slot], WEAK_VIEW),
            sample_key(seed, epoch, indices[slot], STRONG_VIEW),
        )
        statuses[slot] = decode_pair(
            stored, rows[slot], kind, parameters, keys, weak[slot], strong[slot]
        )
