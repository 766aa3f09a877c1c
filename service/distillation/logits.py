"""Logits as rows, one per prediction, and what all losses do to them first."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def are_valid(logits: Tensor) -> Tensor:
    """Whether each row of the logits [B, K] is a prediction; [B], bool.

    It is not if one of its logits is NaN or +inf, or if all are -inf: their softmax is NaN. A logit
    of -inf gives its class the probability 0, as a mask of classes does.
    """
    # The maximum of a row with a NaN is NaN.
    return torch.isfinite(logits.amax(dim=1))


def as_rows(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Logits [N, K, ...], whose further dimensions are positions, as [P, K] in float32 or wider.

    ``mask`` [N, ...], bool: the positions that count; absent: all. The rows are in the order of
    samples, then positions.

    Raises:
        ValueError: there is no dimension of classes, or the mask has another shape.
    """
    if logits.ndim < 2:
        raise ValueError(f"logits are {tuple(logits.shape)}; they must be [N, K] or [N, K, ...]")
    rows = at_least_float32(logits)
    if rows.ndim > 2:
        rows = rows.movedim(1, -1).reshape(-1, logits.shape[1])
    return rows if mask is None else rows[_flat(mask, logits, "mask")]


def label_rows(labels: Tensor, logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Labels [N, ...] of logits [N, K, ...] as [P], in the order of ``as_rows``.

    Raises:
        ValueError: they, or the mask, have another shape.
    """
    rows = _flat(labels, logits, "labels")
    return rows if mask is None else rows[_flat(mask, logits, "mask")]


def _flat(values: Tensor, logits: Tensor, name: str) -> Tensor:
    expected = (logits.shape[0], *logits.shape[2:])
    if values.shape != expected:
        raise ValueError(f"{name} is {tuple(values.shape)}, but the logits have {expected}")
    return values.reshape(-1)


def paired_rows(
    teacher_logits: Tensor, student_logits: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Teacher and student logits [N, K, ...] as rows [P, K]; the teacher's without a gradient.

    Raises:
        ValueError: their shapes differ, or as ``as_rows``.
    """
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"teacher logits are {tuple(teacher_logits.shape)} and student logits "
            f"{tuple(student_logits.shape)}; both must have one shape"
        )
    return as_rows(teacher_logits.detach(), mask), as_rows(student_logits, mask)


def at_least_float32(logits: Tensor) -> Tensor:
    """The logits in float32 if their dtype is narrower; float32 and float64 are unchanged."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Context in which matrix products of such tensors keep their precision, for the losses."""
    kind = tensor.device.type
    has_autocast = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if has_autocast else nullcontext()


def centered(rows: Tensor) -> Tensor:
    """Rows [P, K] minus each one's mean over classes, which does not change the softmax."""
    return rows - rows.mean(dim=1, keepdim=True)


# Logit standardization's own; it keeps rows of equal logits finite.
STD_EPSILON = 1e-7


def standardized(rows: Tensor) -> Tensor:
    """Rows [P, K] with mean 0 and standard deviation 1 each; a row of equal logits becomes 0.

    Source: arXiv 2403.01427, with the unbiased standard deviation of the authors' code.
    """
    differences = centered(rows)
    # The root's derivative at 0 is infinite.
    variance = differences.square().sum(dim=1, keepdim=True) / max(rows.shape[1] - 1, 1)
    is_varied = variance > 0
    std = torch.where(is_varied, variance, 1.0).sqrt()
    return torch.where(is_varied, differences / (std + STD_EPSILON), differences * 0.0)
