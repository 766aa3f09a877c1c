"""Shearing, translating and rotating [H, W, 3] uint8 images in place, by the nearest pixel.

A matrix is six int64 numbers, (xx, xy, x0, yx, yy, y0), in units of 2**-32, so that the source of a
pixel does not depend on how a machine rounds. It maps the doubled coordinates X = 2x + 1 and
Y = 2y + 1 of an output pixel's center to those of its source: xx * X + xy * Y + x0, and likewise
yx * X + yy * Y + y0.
"""

import math

import numpy as np
from numpy.typing import NDArray

from data_pipeline.augmentation.color import copy_levels
from data_pipeline.compiled.compilation import compiled

UNIT_BITS = 32
UNIT = 1 << UNIT_BITS


@compiled
def shear(x_slope: float, y_slope: float) -> NDArray[np.int64]:
    """Matrix [6] that shears along one or the other axis; the upper left corner is fixed.

    Each row is read from ``x_slope`` pixels further right per pixel below the upper edge, each
    column from ``y_slope`` pixels further down per pixel right of the left edge.
    """
    matrix = np.zeros(6, np.int64)
    matrix[0] = matrix[4] = UNIT
    matrix[1] = round(x_slope * UNIT)
    matrix[3] = round(y_slope * UNIT)
    return matrix


@compiled
def translation(right: int, down: int) -> NDArray[np.int64]:
    """Matrix [6] that moves an image by whole pixels; negative numbers move it left and up."""
    matrix = np.zeros(6, np.int64)
    matrix[0] = matrix[4] = UNIT
    matrix[2] = -2 * UNIT * right
    matrix[5] = -2 * UNIT * down
    return matrix


@compiled
def rotation(height: int, width: int, degrees: float) -> NDArray[np.int64]:
    """Matrix [6] that rotates [height, width] pixels counterclockwise around their center."""
    cosine = round(math.cos(math.radians(degrees)) * UNIT)
    sine = round(math.sin(math.radians(degrees)) * UNIT)
    matrix = np.zeros(6, np.int64)
    matrix[0] = matrix[4] = cosine
    matrix[1], matrix[3] = -sine, sine
    matrix[2] = width * UNIT - cosine * width + sine * height
    matrix[5] = height * UNIT - sine * width - cosine * height
    return matrix


@compiled
def transform(
    image: NDArray[np.uint8],
    matrix: NDArray[np.int64],
    fill: NDArray[np.uint8],
    scratch: NDArray[np.uint8],
) -> None:
    """Move the pixels of [H, W, 3] by ``matrix`` [6]; pixels from outside become ``fill`` [3].

    ``scratch`` has the image's shape and is overwritten.
    """
    height, width = image.shape[0], image.shape[1]
    copy_levels(image, scratch)
    for row in range(height):
        source_x = matrix[0] + matrix[1] * (2 * row + 1) + matrix[2]
        source_y = matrix[3] + matrix[4] * (2 * row + 1) + matrix[5]
        for column in range(width):
            # The shift also halves the doubled coordinates, and rounds down to a pixel.
            x, y = source_x >> (UNIT_BITS + 1), source_y >> (UNIT_BITS + 1)
            inside = 0 <= x < width and 0 <= y < height
            for channel in range(3):
                image[row, column, channel] = scratch[y, x, channel] if inside else fill[channel]
            source_x += 2 * matrix[0]
            source_y += 2 * matrix[3]
