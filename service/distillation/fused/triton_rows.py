"""The fused losses on a GPU: what launches the Triton kernels."""

import math
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
CLASSES_PER_WARP, MAX_WARPS = 512, 32
REGISTERS = 64
"""Of a thread, with the most warps. It can have so many, but the compiler by itself may take fewer,
and keep the row in memory."""
CLASSES_PER_LOAD = 4
# The numbers are those of the kernels' constants; 0: no term.
KINDS = {None: 0, "max": 1, "norm": 2, "logsumexp": 3}


def fused_on_gpu(
    rows: Rows, terms: Sequence[FusedTerm], weights: Sequence[float], *, with_gradient: bool
) -> KernelResult:
    """The terms' means and weighted sum; see ``KernelResult``. A label that is no class: NaN.

    At most one term of cross-entropy, one of a fixed temperature and two by rules.
    """
    num_rows, num_classes = rows.student.shape
    gradient = torch.empty_like(rows.student) if with_gradient else None
    values = rows.student.new_empty(len(terms) + 1, num_rows)
    vector = CLASSES_PER_LOAD if num_classes % CLASSES_PER_LOAD == 0 else 1
    block = triton.next_power_of_2(num_classes)
    num_warps = min(max(block // CLASSES_PER_WARP, 1), MAX_WARPS)
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
        num_classes // vector,
        1.0 / num_rows,
        1.0 / num_classes,
        **_settings(terms, weights),
        NUM_TERMS=len(terms),
        HAS_WEIGHTS=rows.weights is not None,
        WITH_GRADIENT=with_gradient,
        VECTOR=vector,
        BLOCK=block,
        num_warps=num_warps,
        maxnreg=REGISTERS if num_warps == MAX_WARPS else None,
    )
    return KernelResult(values.mean(dim=1), gradient)


def scale_on_gpu(values: Tensor, factor: Tensor) -> None:
    """Multiply contiguous values in place by a scalar; where it is 1, they are not read."""
    num_values = values.numel()
    scale_kernel[(triton.cdiv(num_values, SCALE_BLOCK),)](values, factor, num_values, SCALE_BLOCK)


def _settings(terms: Sequence[FusedTerm], weights: Sequence[float]) -> dict[str, object]:
    """The kernel's arguments that say which terms there are."""
    settings: dict[str, object] = {"CE_AT": -1, "smoothing": 0.0, "ce_weight": 0.0}
    settings |= _fixed_settings(-1, 1.0, 0.0) | _rule_settings("a") | _rule_settings("b")
    names = iter("ab")
    for place, (term, weight) in enumerate(zip(terms, weights, strict=True)):
        if isinstance(term, CrossEntropyTerm):
            smoothing = term.label_smoothing
            settings |= {"CE_AT": place, "smoothing": smoothing, "ce_weight": weight}
        elif term.sharpness is None:
            settings |= _fixed_settings(place, term.temperature, weight)
        else:
            settings |= _rule_settings(next(names), place, term, weight)
    return settings


def _fixed_settings(place: int, temperature: float, weight: float) -> dict[str, object]:
    return {
        "fixed_weight": weight,
        "fixed_temperature": temperature,
        "to_exponent": math.log2(math.e) / temperature,
        "FIXED_AT": place,
        "FIXED_IS_ONE": place >= 0 and temperature == 1.0,
    }


def _rule_settings(
    name: str, place: int = -1, term: SoftenedTerm | None = None, weight: float = 0.0
) -> dict[str, object]:
    return {
        f"{name}_weight": weight,
        f"{name}_temperature": 1.0 if term is None else term.temperature,
        f"{name}_floor": 0.0 if term is None else term.floor,
        f"{name.upper()}_AT": place,
        f"{name.upper()}_KIND": 0 if term is None else KINDS[term.sharpness],
        f"{name.upper()}_ATTACHED": term is not None and not term.detach,
    }
