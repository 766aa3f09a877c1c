"""Whether an exported file answers as the network does, on real images."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.distillation.pixels import PixelNormalizer
from service.spec.data_sections import Normalization

BATCH_SIZES = (1, 2, 7)
NUM_CHECKED = 128
TOLERANCE = 1e-4
"""Largest difference of a logit, as a share of the largest absolute value of the same image's.
Other kernels add float32 numbers in another order; most networks differ by less than 1e-5."""

Floats = NDArray[np.float32]
Classifier = Callable[[Floats], Floats]
"""An exported file as a function: images [B, 3, H, W] to logits [B, K]."""


class Comparison(NamedTuple):
    """An exported file's logits against the network's own, over batches of several sizes.

    ``max_difference``: of a logit. ``max_share``: the same, divided by the network's largest
    absolute logit of the same image. ``num_other_top1``: images with another top-1 class in a batch
    of any size.
    """

    num_images: int
    max_difference: float
    max_share: float
    num_other_top1: int

    @property
    def is_equal(self) -> bool:
        """Whether top-1 is the same for all images, and logits are within the tolerance."""
        return self.max_share <= TOLERANCE and self.num_other_top1 == 0

    def __str__(self) -> str:
        same = self.num_images - self.num_other_top1
        return (
            f"top-1 equal for {same} of {self.num_images} images, logits differ by up to "
            f"{self.max_difference:.2g}, and by {self.max_share:.1e} of an image's largest "
            f"(allowed: {TOLERANCE:.0e})"
        )


def network_input(pixels: Tensor, normalization: Normalization | None) -> Floats:
    """What an exported file takes for uint8 pixels [B, H, W, 3]: float32 [B, 3, H, W].

    ``normalization``: of a file that does not normalize its input itself.
    """
    if normalization is not None:
        return PixelNormalizer(normalization)(pixels).numpy()
    return (pixels.permute(0, 3, 1, 2).float() / 255).contiguous().numpy()


def eager_logits(network: nn.Module, normalization: Normalization, pixels: Tensor) -> Floats:
    """The network's own logits [B, K] of uint8 pixels [B, H, W, 3], as evaluation computes them."""
    with torch.inference_mode():
        return network(PixelNormalizer(normalization)(pixels)).numpy()


def in_batches(classify: Classifier, images: Floats, batch_size: int) -> Floats:
    """Logits [N, K] of images [N, 3, H, W], computed ``batch_size`` at a time."""
    parts = [classify(images[n : n + batch_size]) for n in range(0, len(images), batch_size)]
    return np.concatenate(parts)


def compare(classify: Classifier, batches: Iterable[tuple[Floats, Floats]]) -> Comparison:
    """Compare a file's logits with the network's own, for batches of all ``BATCH_SIZES``.

    ``batches``: images [B, 3, H, W] as the file takes them, and the network's logits [B, K] of
    them. A logit that is not finite makes the difference NaN, which is not within the tolerance.
    """
    count, difference, share, other = 0, 0.0, 0.0, 0
    for images, expected in batches:
        answers = np.stack([in_batches(classify, images, size) for size in BATCH_SIZES])
        count += len(expected)
        by_image = np.abs(answers - expected).max(axis=(0, 2))
        # Of an image without any logit but 0 too.
        largest = np.maximum(np.abs(expected).max(axis=1), np.finfo(np.float32).tiny)
        difference = float(np.maximum(difference, by_image.max()))
        share = float(np.maximum(share, (by_image / largest).max()))
        is_other = answers.argmax(axis=2) != expected.argmax(axis=1)
        other += int(is_other.any(axis=0).sum())
    return Comparison(count, difference, share, other)
