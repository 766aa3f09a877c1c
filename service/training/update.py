"""The update of a step, decided on the device: none where the gradient is not finite."""

import math
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from service.training.average import WeightAverage
from service.training.loss_scale import LossScale


class GradientCheck(NamedTuple):
    """Scalars on the device. ``is_skipped``: bool, whether there will be no update.

    ``is_nonfinite``: bool, whether that is because of the loss or the gradient itself, and not
    because it was scaled too much.
    """

    gradient_norm: Tensor
    is_skipped: Tensor
    is_nonfinite: Tensor


class WeightUpdate:
    """Clips the gradient, steps the optimizer, and averages the weights.

    Nothing is read on the host. ``model``: what the optimizer updates. ``average``: of the student,
    if there is one. ``max_norm``: largest global L2 norm of the gradient; None: it is not clipped.
    ``loss_scale``: of the gradients, which are divided by it; None where they are not scaled.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
        max_norm: float | None,
        loss_scale: LossScale | None = None,
        world_size: int = 1,
    ):
        self._loss_scale, self._world_size = loss_scale, world_size
        self._parameters = [one for one in model.parameters() if one.requires_grad]
        self._optimizer, self._average, self._max_norm = optimizer, average, max_norm

    def clear_gradients(self) -> None:
        """Before the next step's backward passes."""
        # Not by the optimizer, whose record for profilers takes longer than this.
        for parameter in self._parameters:
            parameter.grad = None

    def check(self, loss: Tensor) -> GradientCheck:
        """Whether the gradients are finite, which they are on all workers or on none.

        ``loss``: this worker's part of it, which need not be finite on all workers or on none.
        """
        gradients = [one.grad for one in self._parameters if one.grad is not None]
        if self._loss_scale is not None:
            self._loss_scale.unscale(gradients)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        # Also where it is NaN. torch.isfinite is four operations, which a small network notices.
        is_skipped = ~(norm < math.inf)
        is_nonfinite = is_skipped
        if self._loss_scale is not None:
            is_nonfinite = self._loss_scale.update(is_skipped, self._is_finite_everywhere(loss))
        return GradientCheck(norm, is_skipped, is_nonfinite)

    def _is_finite_everywhere(self, loss: Tensor) -> Tensor:
        is_finite = torch.isfinite(loss)
        if self._world_size == 1:
            return is_finite
        flag = is_finite.float()
        dist.all_reduce(flag, dist.ReduceOp.MIN)
        return flag > 0

    def apply(self, checked: GradientCheck) -> None:
        """Update from the gradients; those that are not finite change nothing at all."""
        if self._max_norm is not None:
            norm = checked.gradient_norm
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._max_norm, norm)
        skipped = checked.is_skipped.float()
        # As torch.amp.GradScaler does: fused optimizers and our own make no update where it is 1.
        self._optimizer.found_inf = skipped  # type: ignore[attr-defined]
        self._optimizer.step()
        if self._average is not None:
            self._average.update(skipped)
