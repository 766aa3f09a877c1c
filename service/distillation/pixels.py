"""Networks on uint8 pixels: the input normalization, and the frozen teacher."""

import torch
from torch import Tensor, nn

from service.spec.data_sections import Normalization

# On a CPU, images are normalized in groups small enough to stay in the cache.
NUM_IMAGES_IN_CACHE = 4


class PixelNormalizer(nn.Module):
    """Converts uint8 RGB [B, H, W, 3] to normalized float32 [B, 3, H, W] in channels_last memory.

    A value x of a channel becomes (x / 255 - mean) / std.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, normalization: Normalization):
        super().__init__()
        mean = torch.tensor(normalization.mean, dtype=torch.float64)
        std = torch.tensor(normalization.std, dtype=torch.float64)
        self.register_buffer("scale", (1.0 / (255.0 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalize pixels [B, H, W, 3]; the result is a permuted view of contiguous memory."""
        # Row by row: an inner loop over only three channels would not be vectorized.
        width = pixels.shape[2]
        scale, shift = self.scale.repeat(width), self.shift.repeat(width)
        rows = pixels.flatten(2)
        normalized = torch.empty(rows.shape, device=pixels.device)
        num_at_once = len(rows) if pixels.is_cuda else NUM_IMAGES_IN_CACHE
        parts = torch.split(rows, num_at_once)
        for part, out in zip(parts, torch.split(normalized, num_at_once), strict=True):
            torch.addcmul(shift, part.float(), scale, out=out)
        return normalized.view(pixels.shape).permute(0, 3, 1, 2)


class FrozenTeacher(nn.Module):
    """A network in eval mode with its own input normalization and without gradients."""

    def __init__(self, model: nn.Module, normalization: Normalization):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.normalize = PixelNormalizer(normalization)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, K] of uint8 pixels [B, H, W, 3]."""
        with torch.inference_mode():
            logits = self.model(self.normalize(pixels))
        # Autograd cannot save an inference tensor for backward; it can save a clone.
        return logits.clone()
