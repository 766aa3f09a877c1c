"""What a loader yields, and how its images are cropped."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline import decoders
from data_pipeline.order import repeated


class Batch(NamedTuple):
    """``images`` [B, H, W, 3] uint8 RGB, ``labels`` [B] int64, ``indices`` [B] of the samples.

    ``strong_images`` [B, H, W, 3] uint8 RGB: the second view of the same samples, if asked for.
    ``repeats`` [B]: which draw of a sample in its epoch each image is, counted from 0; None if all
    are the first. A batch owns its memory and may be kept.
    """

    images: Tensor
    labels: Tensor
    indices: NDArray[np.int64]
    strong_images: Tensor | None = None
    repeats: NDArray[np.int64] | None = None

    @property
    def draws(self) -> NDArray[np.int64]:
        """The samples, told apart from their repeats: what random numbers depend on, [B]."""
        return self.indices if self.repeats is None else repeated(self.indices, self.repeats)


class Crop(NamedTuple):
    """How an image is cropped, resized and flipped.

    Attributes:
        kind: RANDOM_RESIZED_CROP, PAD_AND_CROP or CENTER_CROP of ``decoders``.
        size: side of the square result in pixels. PAD_AND_CROP does not resize: images that are not
            of this size count as damaged.
        scale: RANDOM_RESIZED_CROP: minimum and maximum share of the image's area, in (0, 1].
        ratio: RANDOM_RESIZED_CROP: minimum and maximum width / height.
        flip_probability: probability of a horizontal flip, for every kind; 0 never flips.
        padding: PAD_AND_CROP: black pixels added on each side before a random window is cut.
        resize_size: CENTER_CROP: length of the shorter side after resizing, in pixels.
    """

    kind: int
    size: int
    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    flip_probability: float = 0.0
    padding: int = 0
    resize_size: int = 0

    def parameters(self) -> NDArray[np.float64]:
        """The six numbers that ``decoders.decode_samples`` reads, [6]."""
        last = self.padding if self.kind == decoders.PAD_AND_CROP else self.resize_size
        return np.array([*self.scale, *self.ratio, self.flip_probability, last])


def center_crop(resize_size: int, crop_size: int) -> Crop:
    """The crop of evaluations: resize the shorter side, then cut the central square; in pixels."""
    return Crop(decoders.CENTER_CROP, crop_size, resize_size=resize_size)


class UndecodableSampleError(RuntimeError):
    """More stored images do not decode than are allowed; the message names them."""


def chosen_samples(batch: Batch, chosen: NDArray[np.bool_]) -> Batch:
    """The samples of a batch where ``chosen`` [B] is true."""
    rows = torch.from_numpy(chosen)
    strong = None if batch.strong_images is None else batch.strong_images[rows]
    repeats = None if batch.repeats is None else batch.repeats[chosen]
    return Batch(batch.images[rows], batch.labels[rows], batch.indices[chosen], strong, repeats)
