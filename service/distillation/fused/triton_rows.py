"""The fused losses on a GPU: what launches the Triton kernels."""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from service.distillation.fused.terms import (
    CrossEntropyTerm,
    FusedTerm,
    KernelResult,
    Rows,
    SoftenedTerm,
)
from service.distillation.fused.triton_kernels import rows_kernel, scale_kernel

MAX_CLASSES = 65536
SCALE_BLOCK = 4096
MAX_SOFTENED = 2
"""Softened terms in one launch."""
# The numbers are those of the kernels' constants; 0: no term.
KINDS = {None: 1, "max": 2, "norm": 3, "logsumexp": 4}


def fused_on_gpu(
    rows: Rows, terms: Sequence[FusedTerm], weights: Sequence[float], *, with_gradient: bool
) -> KernelResult:
    """The terms' means and weighted sum; see ``KernelResult``. A label that is no class: NaN."""
    num_rows, num_classes = rows.student.shape
    gradient = torch.empty_like(rows.student) if with_gradient else None
    values = rows.student.new_empty(len(terms) + 1, num_rows)
    settings: dict[str, object] = {"CE_AT": -1, "smoothing": 0.0, "ce_weight": 0.0}
    softened: list[tuple[int, SoftenedTerm | None, float]] = []
    for place, (term, weight) in enumerate(zip(terms, weights, strict=True)):
        if isinstance(term, CrossEntropyTerm):
            smoothing = term.label_smoothing
            settings |= {"CE_AT": place, "smoothing": smoothing, "ce_weight": weight}
        else:
            softened.append((place, term, weight))
    softened += [(-1, None, 0.0)] * (MAX_SOFTENED - len(softened))
    for name, one in zip("ab", softened, strict=True):
        settings |= _softened_settings(name, *one)
    block = triton.next_power_of_2(num_classes)
    # Pointers that are not used must still be tensors.
    student = rows.student
    rows_kernel[(num_rows,)](
        student if rows.teacher is None else rows.teacher,
        student,
        student if rows.labels is None else rows.labels,
        student if rows.weights is None else rows.weights,
        student if gradient is None else gradient,
        values,
        num_rows,
        num_classes,
        **settings,
        NUM_TERMS=len(terms),
        HAS_WEIGHTS=rows.weights is not None,
        WITH_GRADIENT=with_gradient,
        BLOCK=block,
        num_warps=min(max(block // 128, 1), 32),
    )
    return KernelResult(values.mean(dim=1), gradient)


def scale_on_gpu(values: Tensor, factor: Tensor) -> None:
    """Multiply contiguous values in place by a scalar; where it is 1, they are not read."""
    num_values = values.numel()
    scale_kernel[(triton.cdiv(num_values, SCALE_BLOCK),)](values, factor, num_values, SCALE_BLOCK)


def _softened_settings(
    name: str, place: int, term: SoftenedTerm | None, weight: float
) -> dict[str, object]:
    kind = 0 if term is None else KINDS[term.sharpness]
    return {
        f"{name}_weight": weight,
        f"{name}_temperature": 1.0 if term is None else term.temperature,
        f"{name}_floor": 0.0 if term is None else term.floor,
        f"{name.upper()}_AT": place,
        f"{name.upper()}_KIND": kind,
        f"{name.upper()}_ATTACHED": term is not None and kind > 1 and not term.detach,
    }
