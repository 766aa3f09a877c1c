"""Compiled inner loop: from the bytes of a .beton to augmented pixels, without Python's lock.

FFCV's C library decodes and resizes; everything around it is one numba function whose machine code
is cached on disk, so that a second process starts at once. Random numbers are a hash of (seed,
epoch, sample, draw): a sample's pixels do not depend on who decodes it, or when.
"""

import importlib.util
import math
from pathlib import Path

import llvmlite.binding
import numpy as np
from numba import njit, types

from data_pipeline.draws import sample_key, uniform

CENTER_CROP, RANDOM_RESIZED_CROP, PAD_AND_CROP = 0, 1, 2
ALL_DECODED = -1
RATIO_ATTEMPTS = 10

JPEG = 0


def _load_ffcv_library() -> None:
    """Make FFCV's C functions visible to compiled code, without importing FFCV itself."""
    package = importlib.util.find_spec("ffcv")
    folders = list(package.submodule_search_locations or []) if package else []
    libraries = [str(path) for folder in folders for path in Path(folder).glob("_libffcv*.so")]
    if not libraries:
        raise ImportError("ffcv's compiled library is missing; install ffcv==1.0.2")
    llvmlite.binding.load_library_permanently(libraries[0])


_load_ffcv_library()

# Pointers travel as integers of their size.
_imdecode = types.ExternalFunction(
    "imdecode",
    types.int32(
        types.uintp, types.uint64, types.uint32, types.uint32, types.uintp,
        types.uint32, types.uint32, types.uint32, types.uint32,
        types.uint32, types.uint32, types.uint8, types.uint8,
    ),
)  # fmt: skip
_resize = types.ExternalFunction("resize", types.void(*[types.int64] * 11))


@njit(nogil=True, cache=True)
def random_box(height, width, scale, ratio, key):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Box (top, left, height, width) of RandomResizedCrop, Szegedy et al., arXiv 1409.4842."""
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(RATIO_ATTEMPTS):
        draw = 4 * attempt
        area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform(key, draw))
        aspect = math.exp(log_low + (log_high - log_low) * uniform(key, draw + 1))
        box_width = round(math.sqrt(area * aspect))
        box_height = round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(uniform(key, draw + 2) * (height - box_height + 1))
            left = int(uniform(key, draw + 3) * (width - box_width + 1))
            return top, left, box_height, box_width
    # No box fitted: the largest central one whose shape is allowed.
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = min(height, round(width / ratio[0]))
    elif width / height > ratio[1]:
        box_width = min(width, round(height * ratio[1]))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


@njit(nogil=True, cache=True)
def center_box(height, width, crop_share):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Box that resizing the shorter side and cutting the centre amounts to."""
    side = max(1, round(crop_share * min(height, width)))
    return (height - side) // 2, (width - side) // 2, side, side


@njit(nogil=True, cache=True)
def pad_and_crop(source, padding, key, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Cut a window of the image's size from the image with black padding around it."""
    size = out.shape[0]
    top = int(uniform(key, 0) * (2 * padding + 1)) - padding
    left = int(uniform(key, 1) * (2 * padding + 1)) - padding
    out[:] = 0
    for row in range(max(0, -top), min(size, size - top)):
        for column in range(max(0, -left), min(size, size - left)):
            for channel in range(3):
                out[row, column, channel] = source[row + top, column + left, channel]


@njit(nogil=True, cache=True)
def mirror(image):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Mirror [H, W, 3] left to right in place."""
    width = image.shape[1]
    for row in range(image.shape[0]):
        for column in range(width // 2):
            for channel in range(3):
                left = image[row, column, channel]
                image[row, column, channel] = image[row, width - 1 - column, channel]
                image[row, width - 1 - column, channel] = left


FLIP_DRAW = 4 * RATIO_ATTEMPTS


@njit(nogil=True, cache=True)
def decode_samples(  # type: ignore[no-untyped-def]  # noqa: ANN201
    data,  # noqa: ANN001  uint8 [file size], the mapped file
    samples,  # noqa: ANN001  int64 [N, 5]: mode, height, width, position, bytes
    indices,  # noqa: ANN001  int64 [B]
    kind,  # noqa: ANN001  CENTER_CROP, RANDOM_RESIZED_CROP or PAD_AND_CROP
    parameters,  # noqa: ANN001  float64 [6]: scale, ratio, flip probability, crop share or padding
    seed,  # noqa: ANN001
    epoch,  # noqa: ANN001
    out,  # noqa: ANN001  uint8 [B, H, W, 3]
):
    """Decode and augment ``indices`` into ``out``; the first one that fails, or ALL_DECODED."""
    largest = 1
    for index in indices:
        if samples[index, 0] == JPEG:
            largest = max(largest, samples[index, 1] * samples[index, 2] * 3)
    scratch = np.empty(largest, np.uint8)
    scale, ratio = parameters[0:2], parameters[2:4]
    for slot in range(len(indices)):
        index = indices[slot]
        mode, height, width = samples[index, 0], samples[index, 1], samples[index, 2]
        start, num_bytes = samples[index, 3], samples[index, 4]
        stored = data[start : start + num_bytes]
        if mode == JPEG:
            status = _imdecode(
                stored.ctypes.data, num_bytes, height, width, scratch.ctypes.data,
                height, width, 0, 0, 1, 1, 0, 0,
            )  # fmt: skip
            if status != 0:
                return index
            address = scratch.ctypes.data
        else:
            if num_bytes != height * width * 3:
                return index
            address = stored.ctypes.data
        key = sample_key(seed, epoch, index)
        if kind == PAD_AND_CROP:
            pixels = scratch[: height * width * 3] if mode == JPEG else stored
            pad_and_crop(pixels.reshape((height, width, 3)), int(parameters[5]), key, out[slot])
        else:
            if kind == RANDOM_RESIZED_CROP:
                top, left, box_height, box_width = random_box(height, width, scale, ratio, key)
            else:
                top, left, box_height, box_width = center_box(height, width, parameters[5])
            _resize(
                0, address, height, width, top, top + box_height, left, left + box_width,
                out[slot].ctypes.data, out.shape[1], out.shape[2],
            )  # fmt: skip
        if parameters[4] > 0.0 and uniform(key, FLIP_DRAW) < parameters[4]:
            mirror(out[slot])
    return ALL_DECODED
