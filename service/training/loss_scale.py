"""The scale of the loss where forward passes have float16, whose smallest normal number is 6e-5.

Gradients of activations are smaller than that. The loss, and with it all gradients, is multiplied
by as large a power of two as overflows in none of them. As torch.amp.GradScaler does it
(Micikevicius et al., arXiv 1710.03740), but nothing is read on the host, and the state is tensors.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

INITIAL_SCALE = 2.0**16
MIN_SCALE = 1.0
MAX_SCALE = 2.0**24
"""As NVIDIA's Apex: beyond it, gradients of float16 that do not overflow are all but zero."""
GROWTH_INTERVAL = 2000
"""Steps without an overflow after which the scale is doubled."""


class LossScale:
    """The scale, a power of two, and how many steps were finite since it has changed.

    The same on all workers, whose mean gradient is finite on all or on none.
    """

    def __init__(self, device: torch.device):
        self.scale = torch.tensor(INITIAL_SCALE, device=device)
        """float32 scalar; the gradient with which a backward pass starts, or the loss, times it."""
        self._num_finite = torch.zeros((), dtype=torch.int32, device=device)

    @torch.no_grad()
    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Divide by the scale, in place; exact, since it is a power of two, but for underflow."""
        if gradients:
            torch._foreach_mul_(list(gradients), self.scale.reciprocal())

    @torch.no_grad()
    def update(self, is_overflow: Tensor, is_loss_finite: Tensor) -> Tensor:
        """Halve the scale after an overflow, double it after many steps without one.

        Args:
            is_overflow: bool scalar, whether a gradient of the step is not finite, for which no
                update is made.
            is_loss_finite: bool scalar, whether the loss is on all workers. It is not scaled, so
                that where it is not, no scale is to blame, and it stays as it is.

        Returns:
            Whether a smaller scale would not have helped: bool scalar. The step is then not finite
            for itself, and otherwise is skipped without counting as such.
        """
        is_hopeless = is_overflow & ((self.scale <= MIN_SCALE) | ~is_loss_finite)
        num_finite = torch.where(is_overflow, 0, self._num_finite + 1)
        is_grown = num_finite >= GROWTH_INTERVAL
        factor = torch.where(is_overflow, 0.5, torch.where(is_grown, 2.0, 1.0))
        factor = torch.where(is_loss_finite, factor, 1.0)
        self.scale.mul_(factor).clamp_(MIN_SCALE, MAX_SCALE)
        num_finite = torch.where(is_grown, 0, num_finite)
        self._num_finite.copy_(torch.where(is_loss_finite, num_finite, self._num_finite))
        return is_hopeless

    def state_dict(self) -> dict[str, Tensor]:
        """For checkpoints: the state's own tensors."""
        return {"scale": self.scale, "num_finite": self._num_finite}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state, from any device."""
        self.scale.copy_(state["scale"])
        self._num_finite.copy_(state["num_finite"])
