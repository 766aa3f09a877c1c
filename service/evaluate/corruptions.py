"""Corruptions of images by which it is measured what a network is worth outside of clean data.

Four of those of ImageNet-C, each at its five strengths, applied to the uint8 pixels of the center
crop that a network sees. (ImageNet-C's own files went through JPEG once more after that.) A
corrupted image depends on its pixels and on (seed, kind, strength, sample) alone: neither on its
batch nor on the number of threads.

Source: Hendrycks & Dietterich, arXiv 1903.12261, and the strengths of its public code.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torchvision.transforms.v2 import functional

Image = NDArray[np.uint8]
Corruption = Callable[[Image, float, Generator], Image]

STRENGTHS = (1, 2, 3, 4, 5)
PUBLISHED: Mapping[int, Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {
        32: {
            "noise": (0.04, 0.06, 0.08, 0.09, 0.10),
            "blur": (0.4, 0.6, 0.7, 0.8, 1.0),
            "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
            "jpeg": (80, 65, 58, 50, 40),
        },
        64: {
            "noise": (0.04, 0.08, 0.12, 0.15, 0.18),
            "blur": (0.5, 0.75, 1.0, 1.25, 1.5),
            "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
            "jpeg": (65, 58, 50, 40, 25),
        },
        224: {
            "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
            "blur": (1.0, 2.0, 3.0, 4.0, 6.0),
            "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
            "jpeg": (25, 18, 15, 10, 7),
        },
    }
)
"""By the side of the images in pixels (CIFAR-10-C, Tiny-ImageNet-C, ImageNet-C) and by kind.

``noise``: standard deviation, of values from 0 to 1. ``blur``: standard deviation of the Gaussian
in pixels. ``contrast``: what is left of it. ``jpeg``: quality, 1 to 100.
"""


def _noise(image: Image, deviation: float, random: Generator) -> Image:
    noise = random.standard_normal(image.shape, dtype=np.float32)
    return _as_pixels(image + 255 * np.float32(deviation) * noise)


def _blur(image: Image, deviation_px: float, _: Generator) -> Image:
    blurred = gaussian_filter(
        image.astype(np.float32), deviation_px, axes=(0, 1), mode="nearest", truncate=4.0
    )
    return _as_pixels(blurred)


def _contrast(image: Image, factor: float, _: Generator) -> Image:
    """Each channel's distance to its mean over the image, times the factor."""
    means = image.mean(axis=(0, 1), keepdims=True, dtype=np.float64)
    return _as_pixels((image - means) * factor + means)


def _jpeg(image: Image, quality: float, _: Generator) -> Image:
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    stored: Tensor = functional.jpeg(pixels, int(quality))
    return stored.permute(1, 2, 0).numpy()


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {"noise": _noise, "blur": _blur, "contrast": _contrast, "jpeg": _jpeg}
)
"""By kind: uint8 pixels [S, S, 3], strength as a number, random numbers, to pixels [S, S, 3]."""


def strength_values(kind: str, size_px: int) -> tuple[float, ...]:
    """The numbers behind the five strengths of a kind, for images of this side in pixels.

    They are those that were published for the size closest to it, by ratio; the deviation of the
    blur is scaled with the size.
    """
    published_px = min(PUBLISHED, key=lambda side_px: abs(math.log(side_px / size_px)))
    values = PUBLISHED[published_px][kind]
    return tuple(v * size_px / published_px for v in values) if kind == "blur" else values


def strengths_text(size_px: int) -> str:
    """What the strengths are for images of this side in pixels, for people."""
    values = {
        kind: ", ".join(f"{value:.3g}" for value in strength_values(kind, size_px))
        for kind in CORRUPTIONS
    }
    return (
        f"Gaussian noise with the standard deviation {values['noise']} (of values from 0 to 1); "
        f"Gaussian blur with {values['blur']} pixels; contrast times {values['contrast']}; JPEG of "
        f"quality {values['jpeg']}"
    )


def corrupted(
    pixels: Tensor, kind: str, strength: int, samples: NDArray[np.int64], seed: int
) -> Tensor:
    """A corrupted copy of a batch of center crops.

    Args:
        pixels: [B, S, S, 3], uint8, on the CPU.
        kind: one of CORRUPTIONS.
        strength: one of STRENGTHS.
        samples: numbers of the images in their file, [B], 0 or more.
        seed: of the noise, 0 or more.
    """
    value = strength_values(kind, pixels.shape[1])[strength - 1]
    result = torch.empty_like(pixels, memory_format=torch.contiguous_format)
    for image, sample, out in zip(pixels.numpy(), samples.tolist(), result.numpy(), strict=True):
        # Each sample has a stream of random numbers of its own: the highest word of the counter.
        random = Generator(Philox(key=[seed, strength], counter=[0, 0, 0, sample]))
        out[...] = CORRUPTIONS[kind](image, value, random)
    return result


def _as_pixels(values: NDArray[np.floating]) -> Image:
    return values.clip(0, 255).round().astype(np.uint8)
