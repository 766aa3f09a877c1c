"""Random augmentations of cropped images: RandAugment, color jitter, random erasing.

Each kind has its own stream of the sample's random numbers: switching one on or off changes
neither the crop nor the others. Nothing is compiled before ``augment_samples`` is first called.
"""

import itertools
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.augmentation.color import COLOR_JITTER_STREAM, color_jitter
from data_pipeline.augmentation.erasing import ERASING_STREAM, FILL_COLOR, FILL_NOISE, erase
from data_pipeline.augmentation.rand_augment import MAX_MAGNITUDE, RAND_AUGMENT_STREAM, rand_augment
from data_pipeline.compiled.compilation import compiled
from data_pipeline.compiled.counter_rng import WEAK_VIEW, sample_key, stream_key

Color = tuple[int, int, int]
Range = tuple[float, float]

# The mean of ImageNet, (0.485, 0.456, 0.406), on the scale 0 to 255.
IMAGENET_MEAN: Color = (124, 116, 104)


class RandAugmentParams(NamedTuple):
    """``num_ops`` operations of ``magnitude`` 0 to 30; ``fill``: RGB levels outside the image."""

    num_ops: int = 2
    magnitude: int = 9
    fill: Color = (0, 0, 0)


class ColorJitterParams(NamedTuple):
    """Strengths: factors are in 1 +- strength, the hue shift in +-strength (at most 0.5)."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0


class ErasingParams(NamedTuple):
    """Random erasing of a box.

    Attributes:
        probability: 0 to 1.
        scale: minimum and maximum share of the image's area.
        ratio: minimum and maximum height / width.
        fill: "mean" fills the box with ``color``, "noise" with random levels.
        color: RGB levels, 0 to 255.
    """

    probability: float
    scale: Range = (0.02, 0.33)
    ratio: Range = (0.3, 3.3)
    fill: Literal["mean", "noise"] = "mean"
    color: Color = IMAGENET_MEAN


class Augmentations(NamedTuple):
    """The augmentations of each sample after its crop, in this order; None for those not used."""

    rand_augment: RandAugmentParams | None = None
    color_jitter: ColorJitterParams | None = None
    erasing: ErasingParams | None = None

    def parameters(self) -> NDArray[np.float64]:
        """The numbers [18] that ``augment_samples`` reads; augmentations that are None do nothing.

        RandAugment's num_ops, magnitude, fill [3]; jitter's strengths [4]; erasing's probability,
        scale [2], ratio [2], kind of fill, color [3].

        Raises:
            ValueError: values out of their range, all of them named.
        """
        operations = self.rand_augment or RandAugmentParams(num_ops=0)
        jitter = self.color_jitter or ColorJitterParams()
        erasing = self.erasing or ErasingParams(probability=0.0)
        _check(operations, jitter, erasing)
        fill_kind = {"mean": FILL_COLOR, "noise": FILL_NOISE}[erasing.fill]
        numbers = [
            *(operations.num_ops, operations.magnitude, *operations.fill),
            *jitter,
            *(erasing.probability, *erasing.scale, *erasing.ratio, fill_kind, *erasing.color),
        ]
        return np.array(numbers, np.float64)


def _check(
    operations: RandAugmentParams, jitter: ColorJitterParams, erasing: ErasingParams
) -> None:
    low_scale, high_scale = erasing.scale
    low_ratio, high_ratio = erasing.ratio
    levels = itertools.chain(operations.fill, erasing.color)
    rules = {
        "RandAugment's num_ops must be at least 0": operations.num_ops >= 0,
        f"RandAugment's magnitude must be 0 to {MAX_MAGNITUDE}": (
            0 <= operations.magnitude <= MAX_MAGNITUDE
        ),
        "colors must be levels from 0 to 255": all(0 <= level <= 255 for level in levels),
        "color jitter's strengths must be at least 0": min(jitter) >= 0,
        "color jitter's hue must be at most 0.5": jitter.hue <= 0.5,
        "erasing's probability must be 0 to 1": 0 <= erasing.probability <= 1,
        "erasing's scale must rise within 0 to 1": 0 <= low_scale <= high_scale <= 1,
        "erasing's ratio must rise from above 0": 0 < low_ratio <= high_ratio,
        "erasing's fill must be 'mean' or 'noise'": erasing.fill in ("mean", "noise"),
    }
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise ValueError("; ".join(broken))


@compiled
def augment_samples(
    images: NDArray[np.uint8],
    indices: NDArray[np.int64],
    parameters: NDArray[np.float64],
    seed: int,
    epoch: int,
    view: int = WEAK_VIEW,
) -> None:
    """Augment ``images`` [B, H, W, 3] uint8 of the samples ``indices`` [B] in place.

    Pixels depend on the image, ``seed``, ``epoch``, the sample's index, ``view`` (WEAK_VIEW or
    STRONG_VIEW) and ``parameters`` [18] (see ``Augmentations.parameters``) alone.
    """
    num_ops, magnitude = int(parameters[0]), int(parameters[1])
    outside = parameters[2:5].astype(np.uint8)
    strengths = parameters[5:9]
    probability, scale, ratio = parameters[9], parameters[10:12], parameters[12:14]
    fill_kind, color = int(parameters[14]), parameters[15:18].astype(np.uint8)
    scratch = np.empty(images.shape[1:], np.uint8)
    for slot in range(len(indices)):
        image, key = images[slot], sample_key(seed, epoch, indices[slot], view)
        stream = stream_key(key, RAND_AUGMENT_STREAM)
        rand_augment(image, num_ops, magnitude, outside, stream, scratch)
        color_jitter(image, strengths, stream_key(key, COLOR_JITTER_STREAM))
        stream = stream_key(key, ERASING_STREAM)
        erase(image, probability, scale, ratio, fill_kind, color, stream)
