"""Tone and sharpness in place: RandAugment's operations on levels that are not in ``color``.

Images are [H, W, 3] uint8. Meaning and rounding are those of torchvision's functions of the same
names on uint8 tensors, computed with integers.
"""

import numpy as np
from numpy.typing import NDArray

from data_pipeline.augmentation.color import FRACTION_BITS, ONE, apply_table, copy_levels
from data_pipeline.compiled.compilation import compiled


@compiled
def apply_tables(image: NDArray[np.uint8], tables: NDArray[np.uint8]) -> None:
    """Replace the levels of each channel of [H, W, 3] by its own table in ``tables`` [3, 256]."""
    pixels = image.reshape(-1, 3)
    for index in range(len(pixels)):
        for channel in range(3):
            pixels[index, channel] = tables[channel, pixels[index, channel]]


@compiled
def posterize(image: NDArray[np.uint8], bits: int) -> None:
    """Keep the ``bits`` (0 to 8) highest bits of every level of [H, W, 3]."""
    mask = np.uint8((0xFF << (8 - bits)) & 0xFF)
    levels = image.reshape(-1)
    for index in range(levels.size):
        levels[index] &= mask


@compiled
def solarize(image: NDArray[np.uint8], threshold: float) -> None:
    """Invert every level of [H, W, 3] that is at least ``threshold`` (0 to 255)."""
    table = np.empty(256, np.uint8)
    for level in range(256):
        table[level] = 255 - level if level >= threshold else level
    apply_table(image, table)


@compiled
def channel_histograms(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Number of pixels of each level in each channel of [H, W, 3]: [3, 256]."""
    counts = np.zeros((3, 256), np.int64)
    pixels = image.reshape(-1, 3)
    for index in range(len(pixels)):
        for channel in range(3):
            counts[channel, pixels[index, channel]] += 1
    return counts


@compiled
def level_range(counts: NDArray[np.int64]) -> tuple[int, int]:
    """Lowest and highest level that occurs in a histogram [256] of at least one pixel."""
    low, high = 0, 255
    while counts[low] == 0:
        low += 1
    while counts[high] == 0:
        high -= 1
    return low, high


@compiled
def autocontrast(image: NDArray[np.uint8]) -> None:
    """Stretch each channel of [H, W, 3] to 0..255; a channel with one level is unchanged."""
    counts = channel_histograms(image)
    tables = np.empty((3, 256), np.uint8)
    for channel in range(3):
        low, high = level_range(counts[channel])
        for level in range(256):
            stretched = (level - low) * 255 // (high - low) if high > low else level
            tables[channel, level] = min(max(stretched, 0), 255)
    apply_tables(image, tables)


@compiled
def equalize(image: NDArray[np.uint8]) -> None:
    """Spread the levels of each channel of [H, W, 3] evenly, by Pillow's and torchvision's rule.

    A step is a 255th of the number of pixels that are not at the highest level; a level becomes the
    number of steps (rounded to the nearest) below it. If a step is less than one pixel, the channel
    is unchanged.
    """
    counts = channel_histograms(image)
    num_pixels = image.shape[0] * image.shape[1]
    tables = np.empty((3, 256), np.uint8)
    for channel in range(3):
        _, highest = level_range(counts[channel])
        step = (num_pixels - counts[channel, highest]) // 255
        below = 0
        for level in range(256):
            even = (below + step // 2) // step if step > 0 else level
            tables[channel, level] = min(even, 255)
            below += counts[channel, level]
    apply_tables(image, tables)


@compiled
def adjust_sharpness(image: NDArray[np.uint8], factor: float, scratch: NDArray[np.uint8]) -> None:
    """Blend [H, W, 3] with a smoothed copy: 0 is smooth, 1 leaves the image unchanged, 2 sharpens.

    The filter is 3 x 3, with weight 5 in the center and 1 around it, divided by 13; the outermost
    pixels are unchanged. ``scratch`` has the image's shape and is overwritten.
    """
    height, width = image.shape[0], image.shape[1]
    copy_levels(image, scratch)
    source, target = scratch.reshape(height, 3 * width), image.reshape(height, 3 * width)
    smooth_share = np.int64(round((1.0 - factor) * ONE))
    for row in range(1, height - 1):
        for index in range(3, 3 * (width - 1)):
            center = np.int64(source[row, index])
            total = 4 * center
            for other in range(row - 1, row + 2):
                total += np.int64(source[other, index - 3])
                total += np.int64(source[other, index])
                total += np.int64(source[other, index + 3])
            # total / 13, rounded; 13 is odd, so that there are no halves.
            smooth = (2 * total + 13) // 26
            blended = int(center + ((smooth_share * (smooth - center)) >> FRACTION_BITS))
            target[row, index] = min(max(blended, 0), 255)
