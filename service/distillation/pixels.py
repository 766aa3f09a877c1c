"""Networks on uint8 pixels: the input normalization, and the frozen teacher."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.spec.data_sections import Normalization

# On a CPU, images are normalized in groups small enough to stay in the cache.
CACHED_BYTES = 2_500_000
FLOAT_BYTES = 4


class PixelNormalizer(nn.Module):
    """Converts uint8 RGB [B, H, W, 3] to normalized float32 [B, 3, H, W] in channels_last memory.

    A value x of a channel becomes (x / 255 - mean) / std.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, normalization: Normalization):
        super().__init__()
        self.normalization = normalization
        mean = torch.tensor(normalization.mean, dtype=torch.float64)
        std = torch.tensor(normalization.std, dtype=torch.float64)
        self.register_buffer("scale", (1.0 / (255.0 * std)).float())
        self.register_buffer("shift", (-mean / std).float())
        self._row = self.scale, self.shift

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalize pixels [B, H, W, 3]; the result is a permuted view of contiguous memory."""
        # Row by row: an inner loop over only three channels would not be vectorized.
        scale, shift = self._of_row(pixels.shape[2])
        rows = pixels.flatten(2)
        num_at_once = len(rows) if pixels.is_cuda else _num_in_cache(rows)
        if len(rows) <= num_at_once:
            normalized = torch.addcmul(shift, rows.float(), scale)
        else:
            normalized = torch.empty(rows.shape, device=pixels.device)
            parts = torch.split(rows, num_at_once)
            for part, out in zip(parts, torch.split(normalized, num_at_once), strict=True):
                torch.addcmul(shift, part.float(), scale, out=out)
        return normalized.view(pixels.shape).permute(0, 3, 1, 2)

    def _of_row(self, width: int) -> tuple[Tensor, Tensor]:
        """Scale and shift of each value of a row, kept for the next batch."""
        if len(self._row[0]) != 3 * width or self._row[0].device != self.scale.device:
            self._row = self.scale.repeat(width), self.shift.repeat(width)
        return self._row


def _num_in_cache(rows: Tensor) -> int:
    return max(1, CACHED_BYTES // max(1, FLOAT_BYTES * math.prod(rows.shape[1:])))


class PixelBatch:
    """uint8 pixels [B, H, W, 3], normalized once for all networks that agree on it."""

    def __init__(self, pixels: Tensor):
        self.pixels = pixels
        self._images: dict[Normalization, Tensor] = {}

    def normalized(self, normalizer: PixelNormalizer) -> Tensor:
        """Images [B, 3, H, W]; the same tensor for equal normalizations."""
        key = normalizer.normalization
        if key not in self._images:
            self._images[key] = normalizer(self.pixels)
        return self._images[key]


class FrozenTeacher(nn.Module):
    """A network in eval mode with its own input normalization and without gradients.

    Args:
        model: normalized images [B, 3, S, S] to logits.
        normalization: its own.
        classes: indices of its logits that are returned, in this order; None for all.
        input_size: the side S of its images where that of the pixels is given; None for the same.
    """

    classes: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        normalization: Normalization,
        classes: Sequence[int] | None = None,
        input_size: Callable[[int], int] | None = None,
    ):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.normalize = PixelNormalizer(normalization)
        self.register_buffer("classes", None if classes is None else torch.tensor(classes))
        self._input_size = input_size
        self.num_at_once: int | None = None
        """Images of a pass, for memory; None: those of each batch."""

    def forward(self, pixels: Tensor | PixelBatch) -> Tensor:
        """Logits [B, K] of uint8 pixels [B, H, W, 3]."""
        batch = pixels if isinstance(pixels, PixelBatch) else PixelBatch(pixels)
        # Not in inference mode: the student may use them too.
        images = batch.normalized(self.normalize)
        with torch.inference_mode():
            parts = torch.split(images, self.num_at_once or max(1, len(images)))
            logits = [self._logits(part) for part in parts]
        # Autograd cannot save an inference tensor for backward; it can save a copy.
        return logits[0].clone() if len(logits) == 1 else torch.cat(logits)

    def resized(self, images: Tensor) -> Tensor:
        """Normalized images [B, 3, S, S] in the size of its own."""
        return (
            images
            if self._input_size is None
            else resized(images, self._input_size(images.shape[2]))
        )

    def _logits(self, images: Tensor) -> Tensor:
        logits = self.model(self.resized(images))
        assert isinstance(logits, Tensor)
        return logits if self.classes is None else logits[:, self.classes]


def resized(images: Tensor, size: int) -> Tensor:
    """Square images [B, 3, S, S] with the side ``size``, bilinear with antialiasing.

    The weights of a pixel have the sum 1: it makes no difference that images are normalized before.
    """
    if images.shape[2] == size:
        return images
    scaled = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return scaled.contiguous(memory_format=torch.channels_last)
