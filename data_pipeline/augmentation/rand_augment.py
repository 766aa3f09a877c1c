"""RandAugment: a few random operations of equal magnitude for each image.

Source: Cubuk et al., arXiv 1909.13719; operations, strengths and 31 magnitudes as in torchvision.
"""

import numpy as np
from numpy.typing import NDArray

from data_pipeline.augmentation.affine import rotation, shear, transform, translation
from data_pipeline.augmentation.color import adjust_brightness, adjust_contrast, adjust_saturation
from data_pipeline.augmentation.tone import (
    adjust_sharpness,
    autocontrast,
    equalize,
    posterize,
    solarize,
)
from data_pipeline.compiled.compilation import compiled
from data_pipeline.compiled.counter_rng import uniform

RAND_AUGMENT_STREAM = 1

IDENTITY, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE = 0, 1, 2, 3, 4, 5
BRIGHTNESS, COLOR, CONTRAST, SHARPNESS = 6, 7, 8, 9
POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE = 10, 11, 12, 13
NUM_OPERATIONS = 14
MAX_MAGNITUDE = 30


@compiled
def num_pixels_moved(side: int, magnitude: int) -> int:
    """Whole pixels by which an image of ``side`` pixels is translated: at most 150/331 of it."""
    return 150 * side * magnitude // (331 * MAX_MAGNITUDE)


@compiled
def geometry(
    operation: int, magnitude: int, sign: int, height: int, width: int
) -> NDArray[np.int64]:
    """Matrix [6] (see ``affine``) of one of SHEAR_X to ROTATE for [height, width] pixels.

    ``magnitude`` is 0 to 30, ``sign`` 1 or -1. At most: shear by 0.3 pixels per pixel, translation
    by 150/331 of the side, rotation by 30 degrees.
    """
    if operation == SHEAR_X:
        return shear(sign * magnitude / 100, 0.0)
    if operation == SHEAR_Y:
        return shear(0.0, sign * magnitude / 100)
    if operation == TRANSLATE_X:
        return translation(sign * num_pixels_moved(width, magnitude), 0)
    if operation == TRANSLATE_Y:
        return translation(0, sign * num_pixels_moved(height, magnitude))
    return rotation(height, width, float(sign * magnitude))


@compiled
def transform_levels(
    image: NDArray[np.uint8],
    operation: int,
    magnitude: int,
    sign: int,
    scratch: NDArray[np.uint8],
) -> None:
    """Apply one of BRIGHTNESS to EQUALIZE to [H, W, 3] in place.

    At most: factor 1 +- 0.9 of BRIGHTNESS to SHARPNESS, 4 bits left of POSTERIZE, threshold 0 of
    SOLARIZE; the last two operations have no magnitude. ``scratch`` has the image's shape and is
    overwritten.
    """
    factor = 1.0 + sign * magnitude * 0.03
    if operation == BRIGHTNESS:
        adjust_brightness(image, factor)
    elif operation == COLOR:
        adjust_saturation(image, factor)
    elif operation == CONTRAST:
        adjust_contrast(image, factor)
    elif operation == SHARPNESS:
        adjust_sharpness(image, factor, scratch)
    elif operation == POSTERIZE:
        # 8 to 4 bits: 8 - magnitude / 7.5, rounded to the nearest.
        posterize(image, 8 - (4 * magnitude + 15) // MAX_MAGNITUDE)
    elif operation == SOLARIZE:
        solarize(image, 255 * (MAX_MAGNITUDE - magnitude) / MAX_MAGNITUDE)
    elif operation == AUTOCONTRAST:
        autocontrast(image)
    else:
        equalize(image)


@compiled
def chosen_operation(key: np.uint64, index: int) -> tuple[int, int]:
    """The operation ``index`` (from 0) of an image, and its sign (1 or -1).

    Uses the random numbers 2 * index and 2 * index + 1 of ``key``.
    """
    operation = int(uniform(key, 2 * index) * NUM_OPERATIONS)
    sign = 1 if uniform(key, 2 * index + 1) < 0.5 else -1
    return operation, sign


@compiled
def rand_augment(
    image: NDArray[np.uint8],
    num_ops: int,
    magnitude: int,
    fill: NDArray[np.uint8],
    key: np.uint64,
    scratch: NDArray[np.uint8],
) -> None:
    """Apply ``num_ops`` random operations of ``magnitude`` (0 to 30) to [H, W, 3] in place.

    ``fill`` [3] is the color of pixels from outside the image; ``key``: of the sample's stream
    RAND_AUGMENT_STREAM; ``scratch`` has the image's shape and is overwritten.
    """
    for index in range(num_ops):
        operation, sign = chosen_operation(key, index)
        if operation == IDENTITY:
            continue
        if operation <= ROTATE:
            height, width = image.shape[0], image.shape[1]
            matrix = geometry(operation, magnitude, sign, height, width)
            transform(image, matrix, fill, scratch)
        else:
            transform_levels(image, operation, magnitude, sign, scratch)
