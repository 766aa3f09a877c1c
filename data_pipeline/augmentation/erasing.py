"""Random erasing: a random box of the image is replaced by one color or by noise.

Source: Zhong et al., arXiv 1708.04896; boxes are chosen as by torchvision's RandomErasing.
"""

import numpy as np
from numpy.typing import NDArray

from data_pipeline.compiled.compilation import compiled
from data_pipeline.compiled.counter_rng import rectangle, uniform

ERASING_STREAM = 3
FILL_COLOR, FILL_NOISE = 0, 1

BOX_ATTEMPTS = 10
CHANCE_COUNTER = 0
BOX_COUNTER = 1
NOISE_COUNTER = BOX_COUNTER + 4 * BOX_ATTEMPTS


@compiled
def erased_box(
    height: int,
    width: int,
    scale: NDArray[np.float64],
    ratio: NDArray[np.float64],
    key: np.uint64,
) -> tuple[int, int, int, int]:
    """Box (top, left, height, width) to erase, in pixels; empty if none of ten attempts fits.

    Its share of the image's area is uniform in ``scale`` [2], its height / width log-uniform in
    ``ratio`` [2]; it is smaller than the image in both directions. Each attempt uses four random
    numbers of ``key``, from BOX_COUNTER on.
    """
    for attempt in range(BOX_ATTEMPTS):
        counter = BOX_COUNTER + 4 * attempt
        box_height, box_width = rectangle(key, counter, height * width, scale, ratio)
        if box_height < height and box_width < width:
            top = int(uniform(key, counter + 2) * (height - box_height + 1))
            left = int(uniform(key, counter + 3) * (width - box_width + 1))
            return top, left, box_height, box_width
    return 0, 0, 0, 0


@compiled
def noise(key: np.uint64, index: int) -> tuple[int, int, int]:
    """Three levels, uniform in 0..255, of the pixel ``index``: 24 bits of one random number."""
    bits = int(uniform(key, NOISE_COUNTER + index) * (1 << 24))
    return bits >> 16, (bits >> 8) & 0xFF, bits & 0xFF


@compiled
def erase(
    image: NDArray[np.uint8],
    probability: float,
    scale: NDArray[np.float64],
    ratio: NDArray[np.float64],
    fill_kind: int,
    color: NDArray[np.uint8],
    key: np.uint64,
) -> None:
    """With ``probability``, replace a random box of [H, W, 3] in place.

    ``scale`` and ``ratio``: see ``erased_box``. ``fill_kind`` is FILL_COLOR, which fills the box
    with ``color`` [3], or FILL_NOISE. ``key``: of the sample's stream ERASING_STREAM.
    """
    if uniform(key, CHANCE_COUNTER) >= probability:
        return
    top, left, height, width = erased_box(image.shape[0], image.shape[1], scale, ratio, key)
    red, green, blue = int(color[0]), int(color[1]), int(color[2])
    for row in range(top, top + height):
        for column in range(left, left + width):
            if fill_kind == FILL_NOISE:
                red, green, blue = noise(key, row * image.shape[1] + column)
            image[row, column, 0] = red
            image[row, column, 1] = green
            image[row, column, 2] = blue
