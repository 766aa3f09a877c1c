"""The fused losses on a CPU: the C library of this folder.

It computes on the calling thread. A second one would save less than a millisecond of a training
step, and be one more pool of threads beside those of torch and of the loader.
"""

import ctypes
import functools
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from service.distillation.fused.terms import (
    CrossEntropyTerm,
    FusedTerm,
    KernelResult,
    Rows,
)

logger = logging.getLogger(__name__)

# The numbers are those of the C sources' enums.
KINDS = {None: 1, "max": 2, "norm": 3, "logsumexp": 4}


class Term(ctypes.Structure):
    """``struct term`` of rows.h."""

    _fields_ = (
        ("kind", ctypes.c_int64),
        ("is_detached", ctypes.c_int64),
        ("weight", ctypes.c_double),
        ("temperature", ctypes.c_double),
        ("bound", ctypes.c_double),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None, with one warning, where it was not built."""
    found = sorted(Path(__file__).parent.glob("_rows*.so"))
    if not found:
        logger.warning(
            "the C library of the losses is not built, and each loss is computed by itself: "
            "install a C compiler, then pip install -e ."
        )
        return None
    library = ctypes.CDLL(str(found[0]))
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.rows_losses.argtypes = (*[pointer] * 4, count, count, pointer, count, pointer, pointer)
    library.rows_losses.restype = count
    library.rows_scale.argtypes = (pointer, count, pointer)
    library.rows_scale.restype = None
    return library


def fused_on_cpu(
    rows: Rows, terms: Sequence[FusedTerm], weights: Sequence[float], *, with_gradient: bool
) -> KernelResult:
    """The terms' means and weighted sum; see ``KernelResult``.

    Raises:
        IndexError: a label is not a class.
    """
    found = library()
    assert found is not None, "the caller has asked whether it is there"
    num_rows, num_classes = rows.student.shape
    gradient = torch.empty_like(rows.student) if with_gradient else None
    values = rows.student.new_empty(len(terms) + 1)
    num_valid = found.rows_losses(
        _address(rows.teacher),
        _address(rows.student),
        _address(rows.labels),
        _address(rows.weights),
        num_rows,
        num_classes,
        (Term * len(terms))(*map(_as_struct, terms, weights)),
        len(terms),
        _address(gradient),
        _address(values),
    )
    if num_valid < 0:
        raise MemoryError(f"no memory for a row of {num_classes} logits")
    if num_valid < num_rows:
        assert rows.labels is not None
        raise IndexError(f"label {rows.labels[num_valid]} is not one of {num_classes} classes")
    return KernelResult(values, gradient)


def scale_on_cpu(values: Tensor, factor: Tensor) -> None:
    """Multiply contiguous values in place by a scalar; where it is 1, they are not read."""
    found = library()
    assert found is not None
    found.rows_scale(values.data_ptr(), values.numel(), factor.data_ptr())


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _as_struct(term: FusedTerm, weight: float) -> Term:
    if isinstance(term, CrossEntropyTerm):
        return Term(0, 0, weight, 1.0, term.label_smoothing)
    return Term(KINDS[term.sharpness], term.detach, weight, term.temperature, term.floor)
