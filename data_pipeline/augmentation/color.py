"""Color jitter in place: brightness, contrast, saturation and hue of [H, W, 3] uint8 images.

Meaning and rounding are those of torchvision's ColorJitter on uint8 tensors: results are clamped to
0..255 and truncated. Adjustments that map each level by itself use a table of 256 entries; the
others use integers in units of 1 / ONE, so that results are the same on every machine. If the exact
result is an integer, torchvision's float32 may be slightly less and give one level less.
"""

import numpy as np
from numpy.typing import NDArray

from data_pipeline.compiled.compilation import compiled
from data_pipeline.compiled.counter_rng import uniform

COLOR_JITTER_STREAM = 2
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0, 1, 2, 3

FRACTION_BITS = 20
ONE = 1 << FRACTION_BITS

# The luma 0.2989 R + 0.587 G + 0.114 B is a multiple of 1/10000. Weights rounded up to 1 / 2**23
# add less than that to it, so that truncating gives the exact integer part.
LUMA_BITS = 23
LUMA_RED = -(-2989 * 2**LUMA_BITS // 10000)
LUMA_GREEN = -(-5870 * 2**LUMA_BITS // 10000)
LUMA_BLUE = -(-1140 * 2**LUMA_BITS // 10000)

# torchvision converts [0, 1] to levels by this factor and truncates.
HUE_GAIN = round(255.999 / 255 * ONE)


@compiled
def copy_levels(image: NDArray[np.uint8], copy: NDArray[np.uint8]) -> None:
    """Copy ``image`` to ``copy``; both are contiguous and have the same shape.

    A loop, because numba takes seconds to compile an array assignment.
    """
    source, target = image.reshape(-1), copy.reshape(-1)
    for index in range(source.size):
        target[index] = source[index]


@compiled
def apply_table(image: NDArray[np.uint8], table: NDArray[np.uint8]) -> None:
    """Replace every level of [H, W, 3] by its entry in ``table`` [256]."""
    levels = image.reshape(-1)
    for index in range(levels.size):
        levels[index] = table[levels[index]]


@compiled
def blend_table(factor: float, other: float) -> NDArray[np.uint8]:
    """Table [256] of ``factor * level + (1 - factor) * other``, clamped to 0..255, truncated."""
    table = np.empty(256, np.uint8)
    for level in range(256):
        blended = level * factor + other * (1.0 - factor)
        table[level] = int(min(max(blended, 0.0), 255.0))
    return table


@compiled
def luma(red: int, green: int, blue: int) -> int:
    """Integer part of 0.2989 R + 0.587 G + 0.114 B, the weights that torchvision uses."""
    weighted = LUMA_RED * np.int64(red) + LUMA_GREEN * np.int64(green) + LUMA_BLUE * np.int64(blue)
    return weighted >> LUMA_BITS


@compiled
def adjust_brightness(image: NDArray[np.uint8], factor: float) -> None:
    """Multiply [H, W, 3] by ``factor``: 0 is black, 1 leaves the image unchanged."""
    apply_table(image, blend_table(factor, 0.0))


@compiled
def adjust_contrast(image: NDArray[np.uint8], factor: float) -> None:
    """Blend [H, W, 3] with its mean luma: 0 is uniform gray, 1 leaves the image unchanged."""
    pixels = image.reshape(-1, 3)
    total = 0
    for index in range(len(pixels)):
        total += luma(pixels[index, 0], pixels[index, 1], pixels[index, 2])
    apply_table(image, blend_table(factor, total / len(pixels)))


@compiled
def adjust_saturation(image: NDArray[np.uint8], factor: float) -> None:
    """Blend each pixel of [H, W, 3] with its luma: 0 is gray, 1 leaves the image unchanged."""
    own = np.int64(round(factor * ONE))
    pixels = image.reshape(-1, 3)
    for index in range(len(pixels)):
        gray = luma(pixels[index, 0], pixels[index, 1], pixels[index, 2]) * (ONE - own)
        for channel in range(3):
            blended = (np.int64(pixels[index, channel]) * own + gray) >> FRACTION_BITS
            pixels[index, channel] = min(max(blended, 0), 255)


@compiled
def hue_level(high: int, span: int, angle: int) -> int:
    """Level of one channel: ``high`` minus a part of ``span`` that depends on ``angle``.

    ``high``: the pixel's highest level. ``span`` (highest minus lowest channel) and ``angle`` (on
    the color circle) are in units of 1 / ONE; a sixth of the circle is one span, and ``angle`` lies
    in [0, 12) spans. Source: A. R. Smith, Color gamut transform pairs, SIGGRAPH 1978, in the form
    without cases: max(0, min(k, 4 - k, 1)).
    """
    if angle >= 6 * span:
        angle -= 6 * span
    taken = max(0, min(angle, 4 * span - angle, span))
    return ((high * ONE - taken) * HUE_GAIN) >> (2 * FRACTION_BITS)


@compiled
def adjust_hue(image: NDArray[np.uint8], factor: float) -> None:
    """Shift the hue of [H, W, 3] by ``factor`` in [-0.5, 0.5] of the color circle.

    Everything is kept as a multiple of the pixel's own span, so that no pixel needs a division.
    """
    turn = np.int64(round(factor * 6 * ONE))
    pixels = image.reshape(-1, 3)
    for index in range(len(pixels)):
        red = np.int64(pixels[index, 0])
        green = np.int64(pixels[index, 1])
        blue = np.int64(pixels[index, 2])
        high = max(red, green, blue)
        span = high - min(red, green, blue)
        if high == red:
            sixths = green - blue
        elif high == green:
            sixths = 2 * span + blue - red
        else:
            sixths = 4 * span + red - green
        angle = sixths * ONE + span * turn
        span *= ONE
        if angle < 0:
            angle += 6 * span
        elif angle >= 6 * span:
            angle -= 6 * span
        pixels[index, 0] = hue_level(high, span, angle + 5 * span)
        pixels[index, 1] = hue_level(high, span, angle + 3 * span)
        pixels[index, 2] = hue_level(high, span, angle + span)


@compiled
def jitter_order(key: np.uint64) -> NDArray[np.int64]:
    """A random order [4] of BRIGHTNESS, CONTRAST, SATURATION and HUE, by a Fisher-Yates shuffle.

    Uses the random numbers 0, 1 and 2 of ``key``.
    """
    order = np.arange(4)
    for last in range(3, 0, -1):
        other = int(uniform(key, last - 1) * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order


@compiled
def jitter_factors(strengths: NDArray[np.float64], key: np.uint64) -> NDArray[np.float64]:
    """Factors [4] of brightness, contrast, saturation and hue, for ``strengths`` [4].

    The first three are uniform in [max(0, 1 - strength), 1 + strength], the hue in +-strength. Uses
    the random numbers 3 to 6 of ``key``.
    """
    factors = np.empty(4)
    for kind in range(4):
        middle = 0.0 if kind == HUE else 1.0
        low, high = middle - strengths[kind], middle + strengths[kind]
        if kind != HUE:
            low = max(0.0, low)
        factors[kind] = low + (high - low) * uniform(key, 3 + kind)
    return factors


@compiled
def color_jitter(image: NDArray[np.uint8], strengths: NDArray[np.float64], key: np.uint64) -> None:
    """Adjust [H, W, 3] at random: ``strengths`` [4] of brightness, contrast, saturation, hue.

    A strength of 0 skips its adjustment. ``key``: of the sample's stream COLOR_JITTER_STREAM.
    Source: torchvision's ColorJitter.
    """
    factors = jitter_factors(strengths, key)
    for kind in jitter_order(key):
        if strengths[kind] == 0.0:
            continue
        if kind == BRIGHTNESS:
            adjust_brightness(image, factors[kind])
        elif kind == CONTRAST:
            adjust_contrast(image, factors[kind])
        elif kind == SATURATION:
            adjust_saturation(image, factors[kind])
        else:
            adjust_hue(image, factors[kind])
