"""The compiled inner loop: from the bytes of a .beton to cropped pixels, without the GIL.

The C library in ``native`` decodes the part of an image that a crop needs, and resizes it. The crop
is chosen here, in numba functions whose machine code is cached on disk. Random numbers are
counter-based (``compiled.counter_rng``): a sample's pixels depend on (seed, epoch, sample) alone.

A view [10] describes what the C library returns; all numbers are in pixels (``View`` in
native/pixels.h):

    0-3  box_top, box_left, box_height, box_width: the box to cut from the stored image
    4-5  resized_height, resized_width: the size to which the box is resized
    6-9  window_top, window_left, window_height, window_width: the part of the resized box that is
         returned
"""

import llvmlite.binding
import numpy as np
from numba import types
from numpy.typing import NDArray

from data_pipeline.beton import MODE_JPEG
from data_pipeline.compiled.compilation import compiled
from data_pipeline.compiled.counter_rng import rectangle, sample_key, uniform
from data_pipeline.native import library, library_path

# Kinds of crop.
CENTER_CROP, RANDOM_RESIZED_CROP, PAD_AND_CROP = 0, 1, 2
# Statuses of a sample; the first three are those of native/pixels.h.
DECODED, DAMAGED, NO_MEMORY, UNREADABLE = 0, -1, -2, -3
RATIO_ATTEMPTS = 10
# After the four numbers of each attempt of random_box.
FLIP_COUNTER = 4 * RATIO_ATTEMPTS

llvmlite.binding.load_library_permanently(str(library_path()))
# The same library, whose decoder is checked here.
library()

# Pointers are passed as integers of their size.
_view_jpeg = types.ExternalFunction(
    "pixels_view_jpeg",
    types.int32(
        types.uintp, types.int64, types.int64, types.int64, types.uintp, types.int32, types.uintp
    ),
)
_view_raw = types.ExternalFunction(
    "pixels_view_raw", types.int32(types.uintp, types.int64, types.uintp, types.int32, types.uintp)
)
_decode_jpeg = types.ExternalFunction(
    "pixels_decode_jpeg",
    types.int32(types.uintp, types.int64, types.int64, types.int64, types.uintp),
)
_pread = types.ExternalFunction(
    "pread", types.int64(types.int32, types.uintp, types.uint64, types.int64)
)


@compiled
def random_box(
    height: int,
    width: int,
    scale: NDArray[np.float64],
    ratio: NDArray[np.float64],
    key: np.uint64,
) -> tuple[int, int, int, int]:
    """Random box of RandomResizedCrop, in pixels of an image of ``height`` x ``width``.

    Its share of the area is uniform in ``scale`` [2], its width / height log-uniform in ``ratio``
    [2]; after ten boxes that do not fit, the largest central one with an allowed ratio. Each
    attempt uses four random numbers of ``key``. Returns (top, left, height, width). Source: Szegedy
    et al., arXiv 1409.4842, as in torchvision's RandomResizedCrop.
    """
    for attempt in range(RATIO_ATTEMPTS):
        counter = 4 * attempt
        box_width, box_height = rectangle(key, counter, height * width, scale, ratio)
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(uniform(key, counter + 2) * (height - box_height + 1))
            left = int(uniform(key, counter + 3) * (width - box_width + 1))
            return top, left, box_height, box_width
    # No box fitted: the largest central one with an allowed ratio.
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = min(height, round(width / ratio[0]))
    elif width / height > ratio[1]:
        box_width = min(width, round(height * ratio[1]))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


@compiled
def center_view(height: int, width: int, resize_size: int, crop_size: int) -> NDArray[np.int64]:
    """The view [10] of an evaluation: shorter side to ``resize_size``, then a central square.

    All sizes are in pixels. The box (0, 0, ``height``, ``width``) is the full image; it is resized
    to (resized_height, resized_width); the window is ``crop_size`` x ``crop_size`` in the center.
    Sizes are rounded as by torchvision's Resize and CenterCrop.
    """
    shorter = min(height, width)
    resized_height = resize_size * height // shorter
    resized_width = resize_size * width // shorter
    top = half_to_even(resized_height - crop_size)
    left = half_to_even(resized_width - crop_size)
    return np.array(
        [0, 0, height, width, resized_height, resized_width, top, left, crop_size, crop_size]
    )


@compiled
def half_to_even(value: int) -> int:
    """``value / 2``, halves rounded to even as Python's round does."""
    half = value // 2
    return half + (value & half & 1)


@compiled
def pad_and_crop(
    source: NDArray[np.uint8], padding: int, key: np.uint64, out: NDArray[np.uint8]
) -> None:
    """Cut a random window of the image's size from the image with black padding around it.

    ``source`` and ``out`` are [S, S, 3]; ``padding`` is in pixels on each side. Uses the random
    numbers 0 and 1 of ``key``.
    """
    size = out.shape[0]
    top = int(uniform(key, 0) * (2 * padding + 1)) - padding
    left = int(uniform(key, 1) * (2 * padding + 1)) - padding
    out[:] = 0
    for row in range(max(0, -top), min(size, size - top)):
        for column in range(max(0, -left), min(size, size - left)):
            for channel in range(3):
                out[row, column, channel] = source[row + top, column + left, channel]


@compiled
def mirror(image: NDArray[np.uint8]) -> None:
    """Flip [H, W, 3] uint8 horizontally in place."""
    width = image.shape[1]
    for row in range(image.shape[0]):
        for column in range(width // 2):
            for channel in range(3):
                left = image[row, column, channel]
                image[row, column, channel] = image[row, width - 1 - column, channel]
                image[row, width - 1 - column, channel] = left


@compiled
def read_bytes(file_descriptor: int, position: int, out: NDArray[np.uint8]) -> bool:
    """Fill ``out`` with the bytes at ``position``; False if the file is too short or fails."""
    done = 0
    while done < len(out):
        count = _pread(file_descriptor, out.ctypes.data + done, len(out) - done, position + done)
        if count <= 0:
            return False
        done += count
    return True


@compiled
def cut_window(
    stored: NDArray[np.uint8],
    mode: int,
    height: int,
    width: int,
    padding: int,
    mirrored: bool,
    key: np.uint64,
    out: NDArray[np.uint8],
) -> int:
    """Pad and crop one image of the size of ``out`` [S, S, 3].

    ``stored``: its bytes, of ``mode`` MODE_JPEG or MODE_RAW. ``height``, ``width`` and ``padding``
    are in pixels; ``mirrored``: flip horizontally. Returns DECODED, DAMAGED or NO_MEMORY.
    """
    pixels = stored
    if mode == MODE_JPEG:
        pixels = np.empty(height * width * 3, np.uint8)
        status = _decode_jpeg(stored.ctypes.data, len(stored), height, width, pixels.ctypes.data)
        if status != DECODED:
            return status
    pad_and_crop(pixels.reshape((height, width, 3)), padding, key, out)
    if mirrored:
        mirror(out)
    return DECODED


@compiled
def cut_view(
    stored: NDArray[np.uint8],
    mode: int,
    height: int,
    width: int,
    view: NDArray[np.int64],
    mirrored: bool,
    out: NDArray[np.uint8],
) -> int:
    """Write the ``view`` [10] of one image to ``out`` [window height, window width, 3].

    ``stored``: its bytes, of ``mode`` MODE_JPEG or MODE_RAW; ``mirrored``: flip horizontally.
    Returns DECODED, DAMAGED or NO_MEMORY.
    """
    if mode == MODE_JPEG:
        return _view_jpeg(
            stored.ctypes.data, len(stored), height, width, view.ctypes.data, mirrored,
            out.ctypes.data,
        )  # fmt: skip
    return _view_raw(stored.ctypes.data, width, view.ctypes.data, mirrored, out.ctypes.data)


@compiled
def is_mirrored(parameters: NDArray[np.float64], key: np.uint64) -> bool:
    """Whether the sample of ``key`` is flipped; ``parameters`` [6]: see ``decode_samples``."""
    return parameters[4] > 0.0 and uniform(key, FLIP_COUNTER) < parameters[4]


@compiled
def resized_view(
    height: int, width: int, kind: int, parameters: NDArray[np.float64], key: np.uint64, size: int
) -> NDArray[np.int64]:
    """The view [10] of an image of ``height`` x ``width`` that gives ``size`` x ``size`` pixels.

    ``kind``: RANDOM_RESIZED_CROP, or CENTER_CROP, which has no use for ``key``. ``parameters`` [6]:
    see ``decode_samples``.
    """
    if kind == CENTER_CROP:
        return center_view(height, width, int(parameters[5]), size)
    scale, ratio = parameters[0:2], parameters[2:4]
    top, left, box_height, box_width = random_box(height, width, scale, ratio, key)
    return np.array([top, left, box_height, box_width, size, size, 0, 0, size, size])


@compiled
def decode_sample(
    stored: NDArray[np.uint8],
    row: NDArray[np.int64],
    kind: int,
    parameters: NDArray[np.float64],
    key: np.uint64,
    out: NDArray[np.uint8],
) -> int:
    """Decode, crop and flip one image to ``out`` [S, S, 3] uint8 RGB.

    ``stored``: its bytes. ``row`` [5]: mode, height and width in pixels, position and size in
    bytes, of which the first three are used. ``kind`` and ``parameters`` [6]: see
    ``decode_samples``. ``key``: key of the sample's random numbers. Returns DECODED, DAMAGED (also
    for an image whose size does not suit PAD_AND_CROP) or NO_MEMORY.
    """
    mode, height, width = row[0], row[1], row[2]
    if mode != MODE_JPEG and len(stored) != height * width * 3:
        return DAMAGED
    mirrored = is_mirrored(parameters, key)
    if kind == PAD_AND_CROP:
        if height != out.shape[0] or width != out.shape[1]:
            return DAMAGED
        padding = int(parameters[5])
        return cut_window(stored, mode, height, width, padding, mirrored, key, out)
    view = resized_view(height, width, kind, parameters, key, out.shape[0])
    return cut_view(stored, mode, height, width, view, mirrored, out)


@compiled
def decode_samples(
    file_descriptor: int,
    rows: NDArray[np.int64],
    indices: NDArray[np.int64],
    kind: int,
    parameters: NDArray[np.float64],
    seed: int,
    epoch: int,
    out: NDArray[np.uint8],
    statuses: NDArray[np.int8],
) -> None:
    """Read, decode and crop samples into ``out`` [B, S, S, 3] uint8 RGB.

    ``rows`` [B, 5]: mode, height and width in pixels, position and size in bytes (see
    ``BetonFile.storage``). ``indices`` [B]: the samples, or draws of them (see ``order.repeated``),
    from which their random numbers follow.
    ``kind``: CENTER_CROP, RANDOM_RESIZED_CROP or PAD_AND_CROP. ``parameters`` [6]: scale [2], ratio
    [2], flip probability, and padding (PAD_AND_CROP) or resize size (CENTER_CROP) in pixels.
    ``statuses`` [B] is set to DECODED, DAMAGED, NO_MEMORY or UNREADABLE. The file is read, not
    mapped: a mapped file that shrinks or fails would kill the process.
    """
    buffer = np.empty(rows[:, 4].max(), np.uint8)
    for slot in range(len(indices)):
        stored = buffer[: rows[slot, 4]]
        if not read_bytes(file_descriptor, rows[slot, 3], stored):
            statuses[slot] = UNREADABLE
            continue
        key = sample_key(seed, epoch, indices[slot])
        statuses[slot] = decode_sample(stored, rows[slot], kind, parameters, key, out[slot])
