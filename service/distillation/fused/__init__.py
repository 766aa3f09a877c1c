"""Cross-entropy, KD and DTKD in one pass over each row of logits, with their gradient.

The plain functions of ``losses`` are the definition. They are used wherever these are not: for
float64 logits, on other devices, where neither the C library nor Triton is there, and from then on
where Triton fails: it compiles a kernel at its first call.
"""

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from service.distillation.fused import native
from service.distillation.fused.terms import FusedTerm, KernelResult, Rows

logger = logging.getLogger(__name__)

_triton_failed = threading.Event()
"""Set by its first failure in this process."""


class Compute(Protocol):
    """Computes the terms' means and weighted sum; see ``KernelResult``."""

    def __call__(
        self,
        rows: Rows,
        terms: Sequence[FusedTerm],
        weights: Sequence[float],
        *,
        with_gradient: bool,
    ) -> KernelResult:
        """Also the gradient of the weighted sum, if asked for."""


class FusedValue(NamedTuple):
    """``total``: the weighted sum, a scalar with a graph. ``means``: of each term, detached."""

    total: Tensor
    means: Tensor


class Kernels(NamedTuple):
    """What computes the terms on one kind of device, and what scales a gradient in place.

    ``are_triton``: they compile at their first call, which can fail.
    """

    compute: Compute
    scale: Callable[[Tensor, Tensor], None]
    are_triton: bool


def can_fuse(logits: Tensor) -> bool:
    """Whether terms of such logits [N, K, ...] can be fused; their values are not read."""
    is_float32 = torch.promote_types(logits.dtype, torch.float32) == torch.float32
    return is_float32 and logits.numel() > 0 and _kernels(logits) is not None


def fused_losses(
    rows: Rows, terms: Sequence[FusedTerm], weights: Sequence[float]
) -> FusedValue | None:
    """The sum of weight x mean over the rows of each term, and these means.

    The gradient to the student's rows is computed with the values, and only scaled in backward.
    None, where Triton fails: the plain functions are to be used.

    Raises:
        IndexError: a label is not a class; on a GPU, the loss is NaN instead.
    """
    kernels = _kernels(rows.student)
    assert kernels is not None, "the caller has asked whether they can be fused"
    student, *others = (None if one is None else one.detach().contiguous() for one in rows)
    assert student is not None
    with_gradient = torch.is_grad_enabled() and rows.student.requires_grad
    try:
        found = kernels.compute(Rows(student, *others), terms, weights, with_gradient=with_gradient)
    except Exception as error:
        _give_up(kernels, error)
        return None
    means, total = found.values[:-1], found.values[-1]
    if found.gradient is not None:
        total = _KnownGradient.apply(rows.student, total, found.gradient, kernels)
    return FusedValue(total, means)


def _kernels(logits: Tensor) -> Kernels | None:
    if logits.device.type == "cpu":
        has_library = native.library() is not None
        return Kernels(native.fused_on_cpu, native.scale_on_cpu, False) if has_library else None
    if logits.device.type == "cuda":
        return _triton_kernels(logits.shape[1])
    return None


def _triton_kernels(num_classes: int) -> Kernels | None:
    """Triton's kernels; None, after one warning, where it is missing or has failed."""
    found = None if _triton_failed.is_set() else _import_triton_rows()
    if found is None or num_classes > found.MAX_CLASSES:
        return None
    return Kernels(found.fused_on_gpu, found.scale_on_gpu, True)


@functools.cache
def _import_triton_rows() -> ModuleType | None:
    try:
        from service.distillation.fused import triton_rows
    except Exception as error:
        _warn(error)
        return None
    return triton_rows


def _scale(kernels: Kernels, values: Tensor, factor: Tensor) -> None:
    try:
        kernels.scale(values, factor)
    except Exception as error:
        _give_up(kernels, error)
        values.mul_(factor)


def _give_up(kernels: Kernels, error: Exception) -> None:
    """Use Triton no more, whatever it has raised.

    Raises:
        Exception: the error itself, where memory is missing, or the kernels are not Triton's.
    """
    is_out_of_memory = isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)
    if is_out_of_memory or not kernels.are_triton:
        raise error
    if not _triton_failed.is_set():
        _triton_failed.set()
        _warn(error)


def _warn(error: Exception) -> None:
    message = "each loss is computed by itself, because Triton does not work: %s"
    logger.warning(message, error, exc_info=error)


class _KnownGradient(torch.autograd.Function):
    """A scalar computed from the student's rows, and its gradient to them, computed with it."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - its stub lacks saved_tensors, and attributes of one's own
        _student: Tensor,
        value: Tensor,
        gradient: Tensor,
        kernels: Kernels,
    ) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.kernels = kernels
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - as above
        (gradient,) = ctx.saved_tensors
        # In place, without a second tensor of this size. A second backward pass is an error of
        # autograd's, which compares the versions.
        _scale(ctx.kernels, gradient, factor)
        torch.autograd.graph.increment_version(gradient)
        return gradient, None, None, None
