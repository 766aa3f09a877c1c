"""The mean of several teachers."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.distillation.pixels import FrozenTeacher, PixelBatch


class TeacherEnsemble(nn.Module):
    """Several frozen teachers of the same classes, as one: the weighted mean of what they predict.

    Args:
        members: at least one.
        weights: of each member, positive, of any sum.
        mean_of: see ``mean_logits`` and ``logits_of_mean_probabilities``.
    """

    weights: Tensor

    def __init__(
        self,
        members: Sequence[FrozenTeacher],
        weights: Sequence[float],
        mean_of: Literal["logits", "probabilities"],
    ):
        super().__init__()
        self.members = nn.ModuleList(members)
        shares = torch.tensor(weights, dtype=torch.float64)
        self.register_buffer("weights", (shares / shares.sum()).float())
        self._mean = mean_logits if mean_of == "logits" else logits_of_mean_probabilities

    def forward(self, pixels: Tensor | PixelBatch) -> Tensor:
        """Logits [B, K], float32 or wider, of uint8 pixels [B, H, W, 3]."""
        batch = pixels if isinstance(pixels, PixelBatch) else PixelBatch(pixels)
        logits = torch.stack([member(batch) for member in self.members])
        wide = torch.promote_types(logits.dtype, torch.float32)
        # Autocast leaves these operations in the types of their inputs, or wider.
        return self._mean(logits.to(wide), self.weights.to(wide))


def mean_logits(logits: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean over teachers of logits [T, B, K]; ``weights`` [T] have the sum 1."""
    return (weights[:, None, None] * logits).sum(dim=0)


def logits_of_mean_probabilities(logits: Tensor, weights: Tensor) -> Tensor:
    """Logits [B, K] whose softmax is the weighted mean over teachers of those of logits [T, B, K].

    Logits with this softmax differ by a constant per sample. Theirs is such that the logsumexp is
    the weighted mean of the teachers': equal teachers give their own logits. ``weights`` [T] have
    the sum 1.
    """
    shares = weights[:, None, None]
    log_mean = torch.logsumexp(F.log_softmax(logits, dim=2) + shares.log(), dim=0)
    return log_mean + (shares * torch.logsumexp(logits, dim=2, keepdim=True)).sum(dim=0)
