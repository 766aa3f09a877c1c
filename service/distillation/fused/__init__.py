"""Cross-entropy, KD and DTKD in one pass over each row of logits, with their gradient.

The plain functions of ``losses`` are the definition. They are used wherever these are not: for
float64 logits, on other devices, and where neither the C library nor Triton is there.
"""

import functools
import logging
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from service.distillation.fused import native
from service.distillation.fused.terms import FusedTerm, KernelResult, Rows

logger = logging.getLogger(__name__)


class FusedValue(NamedTuple):
    """``total``: the weighted sum, a scalar with a graph. ``means``: of each term, detached."""

    total: Tensor
    means: Tensor


class Kernel(Protocol):
    """What computes the terms on one kind of device."""

    def __call__(
        self,
        rows: Rows,
        terms: Sequence[FusedTerm],
        weights: Sequence[float],
        *,
        with_gradient: bool,
    ) -> KernelResult:
        """The terms' means and weighted sum; see ``KernelResult``."""


def can_fuse(logits: Tensor) -> bool:
    """Whether terms of such logits [N, K, ...] can be fused; their values are not read."""
    is_float32 = torch.promote_types(logits.dtype, torch.float32) == torch.float32
    return is_float32 and logits.numel() > 0 and _kernel(logits) is not None


def fused_losses(rows: Rows, terms: Sequence[FusedTerm], weights: Sequence[float]) -> FusedValue:
    """The sum of weight x mean over the rows of each term, and these means.

    The gradient to the student's rows is computed with the values, and only scaled in backward.

    Raises:
        IndexError: a label is not a class; on a GPU, the loss is NaN instead.
    """
    kernel = _kernel(rows.student)
    assert kernel is not None, "the caller has asked whether they can be fused"
    student, *others = (None if one is None else one.detach().contiguous() for one in rows)
    assert student is not None
    with_gradient = torch.is_grad_enabled() and rows.student.requires_grad
    found = kernel(Rows(student, *others), terms, weights, with_gradient=with_gradient)
    means, total = found.values[:-1], found.values[-1]
    if found.gradient is not None:
        total = _KnownGradient.apply(rows.student, total, found.gradient)
    return FusedValue(total, means)


def _kernel(logits: Tensor) -> Kernel | None:
    if logits.device.type == "cpu":
        return None if native.library() is None else native.fused_on_cpu
    if logits.device.type == "cuda":
        return _triton_kernel(logits.shape[1])
    return None


@functools.cache
def _triton_kernel(num_classes: int) -> Kernel | None:
    """Triton's kernel, which is compiled at the first call; None where it cannot be used."""
    try:
        from service.distillation.fused import triton_rows
    except ImportError as error:
        logger.warning("each loss is computed by itself, because Triton is missing: %s", error)
        return None
    return triton_rows.fused_on_gpu if num_classes <= triton_rows.MAX_CLASSES else None


class _KnownGradient(torch.autograd.Function):
    """A scalar computed from the student's rows, and its gradient to them, computed with it."""

    @staticmethod
    def forward(ctx: FunctionCtx, _student: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, factor: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined] # it is not in the stub
        return gradient * factor, None, None
