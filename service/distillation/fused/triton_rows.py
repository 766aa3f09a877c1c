"""The fused losses on a GPU: one Triton program per row, which stays in registers for all terms.

The arithmetic is that of the C sources in this folder, where its steps are explained.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from service.distillation.fused.terms import (
    CrossEntropyTerm,
    FusedTerm,
    KernelResult,
    Rows,
    SoftenedTerm,
)
from service.distillation.temperature import FLAT_RMS, LARGE_LOGIT, NUM_ROOT_STEPS

MAX_CLASSES = 65536
SCALE_BLOCK = 4096
MAX_SOFTENED = 2
"""Softened terms in one launch."""
# Of a softened term; NONE: there is no such term.
NONE, FIXED, LARGEST, LARGEST_ABSOLUTE, LOGSUMEXP = map(tl.constexpr, range(5))
KINDS = {None: 1, "max": 2, "norm": 3, "logsumexp": 4}
NUM_STEPS = tl.constexpr(NUM_ROOT_STEPS)
LARGE = tl.constexpr(LARGE_LOGIT)
FLAT = tl.constexpr(FLAT_RMS)
TINY = tl.constexpr(float(torch.finfo(torch.float32).tiny))


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
    _rows_kernel[(num_rows,)](
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
    _scale_kernel[(triton.cdiv(num_values, SCALE_BLOCK),)](values, factor, num_values, SCALE_BLOCK)


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


@triton.jit
def _scale_kernel(values, factor, num_values, BLOCK: tl.constexpr):
    by = tl.load(factor)
    if by != 1.0:
        places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        found = tl.load(values + places, mask=places < num_values)
        tl.store(values + places, found * by, mask=places < num_values)


@triton.jit
def _rows_kernel(
    teacher_rows,
    student_rows,
    labels,
    row_weights,
    gradient_rows,
    values,
    num_rows,
    num_classes,
    ce_weight,
    smoothing,
    a_weight,
    a_temperature,
    a_floor,
    b_weight,
    b_temperature,
    b_floor,
    CE_AT: tl.constexpr,
    A_AT: tl.constexpr,
    A_KIND: tl.constexpr,
    A_ATTACHED: tl.constexpr,
    B_AT: tl.constexpr,
    B_KIND: tl.constexpr,
    B_ATTACHED: tl.constexpr,
    NUM_TERMS: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    classes = tl.arange(0, BLOCK)
    inside = classes < num_classes
    v = tl.load(student_rows + row * num_classes + classes, mask=inside, other=0.0)
    gradient = tl.zeros_like(v)
    total = 0.0
    if CE_AT >= 0:
        loss, change = _cross_entropy(
            v, tl.load(labels + row), smoothing, ce_weight / num_rows, classes, inside, num_classes
        )
        tl.store(values + CE_AT * num_rows + row, loss)
        total += ce_weight * loss
        gradient += change
    if A_KIND != NONE:
        u = tl.load(teacher_rows + row * num_classes + classes, mask=inside, other=0.0)
        scale = 1.0
        if HAS_WEIGHTS:
            scale = tl.load(row_weights + row)
        loss, change = _softened(
            u, v, a_temperature, a_floor, a_weight * scale / num_rows, classes, inside,
            num_classes, A_KIND, A_ATTACHED,
        )  # fmt: skip
        tl.store(values + A_AT * num_rows + row, scale * loss)
        total += a_weight * scale * loss
        gradient += change
        if B_KIND != NONE:
            loss, change = _softened(
                u, v, b_temperature, b_floor, b_weight * scale / num_rows, classes, inside,
                num_classes, B_KIND, B_ATTACHED,
            )  # fmt: skip
            tl.store(values + B_AT * num_rows + row, scale * loss)
            total += b_weight * scale * loss
            gradient += change
    tl.store(values + NUM_TERMS * num_rows + row, total)
    if WITH_GRADIENT:
        tl.store(gradient_rows + row * num_classes + classes, gradient, mask=inside)


@triton.jit
def _cross_entropy(v, label, smoothing, weight, classes, inside, num_classes):
    """The loss of a row, and the gradient times ``weight``."""
    top = tl.max(tl.where(inside, v, -float("inf")))
    below = tl.where(inside, v - top, 0.0)
    exp = tl.where(inside, tl.exp(below), 0.0)
    exp_sum = tl.sum(exp)
    log_sum = tl.log(exp_sum)
    is_label = classes == label
    own = tl.sum(tl.where(is_label, below, 0.0))
    loss = (1.0 - smoothing) * (log_sum - own)
    if smoothing > 0.0:
        loss += smoothing * (log_sum - tl.sum(below) / num_classes)
    loss = tl.where((label >= 0) & (label < num_classes), loss, float("nan"))
    target = tl.where(is_label, 1.0 - smoothing, 0.0) + smoothing / num_classes
    return loss, weight * (exp / exp_sum - target)


@triton.jit
def _softened(
    u, v, temperature, floor, weight, classes, inside, num_classes,
    KIND: tl.constexpr, ATTACHED: tl.constexpr,
):  # fmt: skip
    """The loss of a row, and the gradient times ``weight``."""
    u_top = tl.max(tl.where(inside, u, -float("inf")))
    v_top = tl.max(tl.where(inside, v, -float("inf")))
    u_below, v_below = tl.where(inside, u - u_top, 0.0), tl.where(inside, v - v_top, 0.0)
    # From the top to the mean: what centering adds to a row's largest logit.
    u_depth, v_depth = tl.sum(u_below) / num_classes, tl.sum(v_below) / num_classes
    v_low = tl.min(tl.where(inside, v, float("inf")))
    share, other, is_rule, is_centered = 0.5, 0.5, False, False
    if KIND == LOGSUMEXP:
        share, other, is_rule = _root(
            u_below, v_below, u_depth, v_depth, temperature, floor, inside, num_classes
        )
    elif KIND != FIXED:
        u_low = tl.min(tl.where(inside, u, float("inf")))
        share, other, is_rule, is_centered = _closed_form(
            u_top, u_low, u_depth, v_top, v_low, v_depth, floor, KIND
        )
    t, r = 2.0 * temperature * share, 2.0 * temperature * other
    a, b = u_below / t, v_below / r
    p = tl.where(inside, tl.exp(a), 0.0)
    q = tl.where(inside, tl.exp(b), 0.0)
    p_sum, q_sum = tl.sum(p), tl.sum(q)
    p, q = p / p_sum, q / q_sum
    difference = _log1p((p_sum - q_sum) / q_sum)
    logs = tl.where(inside, (a - b) - difference, 0.0)
    kl = tl.sum(p * logs)
    change = weight * t * (q - p)
    if ATTACHED:
        u_pull, v_pull = tl.sum(p * a), tl.sum(q * b)
        by_t = r * (kl - (tl.sum(p * logs * a) - kl * u_pull))
        by_r = t * (kl - (v_pull - tl.sum(p * b)))
        slope = weight * 2.0 * temperature * (by_t - by_r)
        if KIND == LOGSUMEXP:
            pull = (u_pull - u_depth / t) / share + (v_pull - v_depth / r) / other
            change += tl.where(is_rule, -slope / (pull * r), 0.0) * (q - 1.0 / num_classes)
        else:
            mean = tl.where(is_centered, v_top + v_depth, 0.0)
            is_negative = (KIND == LARGEST_ABSOLUTE) & (mean - v_low > v_top - mean)
            y = tl.where(is_negative, mean - v_low, v_top - mean)
            spike = -slope * share * other / y * tl.where(is_negative, -1.0, 1.0)
            spike = tl.where(is_rule | is_centered, spike, 0.0)
            signed = tl.where(inside, tl.where(is_negative, -v, v), -float("inf"))
            change += tl.where(classes == tl.argmax(signed, axis=0), spike, 0.0)
            change -= tl.where(is_centered, spike / num_classes, 0.0)
    return t * r * kl, change


@triton.jit
def _closed_form(u_top, u_low, u_depth, v_top, v_low, v_depth, floor, KIND: tl.constexpr):
    """Both shares; whether they are the rule's, and whether they have its form when centered."""
    x, y = u_top, v_top
    x_centered, y_centered = -u_depth, -v_depth
    if KIND == LARGEST_ABSOLUTE:
        x, y = tl.maximum(u_top, -u_low), tl.maximum(v_top, -v_low)
        x_centered = tl.maximum(-u_depth, u_top + u_depth - u_low)
        y_centered = tl.maximum(-v_depth, v_top + v_depth - v_low)
    share, other = x / (x + y), y / (x + y)
    is_finite = (x < float("inf")) & (y < float("inf")) & (u_depth == u_depth)
    is_rule = (x > 0.0) & (y > 0.0) & is_finite & (v_depth == v_depth)
    is_rule = is_rule & (share >= floor) & (other >= floor)
    whole = x_centered + y_centered
    is_defined = (whole > TINY) & (whole < float("inf"))
    centered = tl.where(is_defined, x_centered / whole, 0.5)
    is_centered = is_defined & (centered >= floor) & (centered <= 1.0 - floor) & (is_rule == 0)
    centered = tl.minimum(tl.maximum(centered, floor), 1.0 - floor)
    share = tl.where(is_rule, share, centered)
    other = tl.where(is_rule, other, 1.0 - centered)
    return share, other, is_rule, is_centered


@triton.jit
def _root(u_below, v_below, u_depth, v_depth, temperature, floor, inside, num_classes):
    """Both shares at the root, or at the nearest bound; whether it is a root."""
    scale = 0.5 / temperature
    u = tl.where(inside, u_below - u_depth, 0.0) * scale
    v = tl.where(inside, v_below - v_depth, 0.0) * scale
    u_top, v_top = -u_depth * scale, -v_depth * scale
    is_finite = (u_top < float("inf")) & (v_top < float("inf"))
    u, v = tl.where(is_finite, u, 0.0), tl.where(is_finite, v, 0.0)
    x, y = tl.sqrt(tl.sum(u * u) / num_classes), tl.sqrt(tl.sum(v * v) / num_classes)
    is_varied = (x > 0.0) | (y > 0.0)
    is_flat = tl.minimum(x, y) < FLAT
    highest = tl.log((1.0 - floor) / floor + tl.zeros_like(x))
    logit = tl.where(is_varied, tl.log(x / y), 0.0)
    logit = tl.minimum(tl.maximum(logit, -highest), highest)
    low, high = -highest, highest
    for _ in tl.static_range(NUM_STEPS):
        share = 1.0 / (1.0 + tl.exp(-logit))
        other = 1.0 / (1.0 + tl.exp(logit))
        f, f_slope, f_bend = _sharpness(u, u_top, share, inside, num_classes)
        g, g_slope, g_bend = _sharpness(v, v_top, other, inside, num_classes)
        gap = _log1p((f - g) / g)
        slope = -other * f_slope - share * g_slope
        bend = other * other * f_bend - share * share * g_bend
        bend += share * other * (f_slope - g_slope)
        low, high = tl.where(gap > 0.0, logit, low), tl.where(gap <= 0.0, logit, high)
        halley = 1.0 - 0.5 * gap * bend / (slope * slope)
        found = logit - gap / (slope * tl.minimum(tl.maximum(halley, 0.3), 3.0))
        bounded = tl.minimum(tl.maximum(found, low), high)
        is_kept = (bounded == found) | (bounded == highest) | (bounded == -highest)
        step = tl.where(is_kept, bounded, 0.5 * (low + high))
        logit = tl.where(is_flat, logit, step)
    is_root = is_finite & is_varied & (logit > -highest) & (logit < highest)
    logit = tl.where(is_finite & is_varied, logit, 0.0)
    return 1.0 / (1.0 + tl.exp(-logit)), 1.0 / (1.0 + tl.exp(logit)), is_root


@triton.jit
def _sharpness(z, top, temperature, inside, num_classes):
    """f = LSE(z / T) - log K of a centered row; derivatives of log f to -log T."""
    x = z / temperature
    shift = tl.maximum(top / temperature - LARGE, 0.0)
    below = x - shift
    exp = tl.exp(below)
    # exp(x) - 1 - x without losing digits, for small x.
    series = 1.0 / 720.0 + below * (1.0 / 5040.0 + below * (1.0 / 40320.0))
    series = 1.0 / 24.0 + below * (1.0 / 120.0 + below * series)
    series = below * below * (0.5 + below * (1.0 / 6.0 + below * series))
    is_small = tl.abs(below) < 0.5
    rest = tl.where(is_small, series, exp - 1.0 - below)
    excess = tl.where(is_small, below + series, exp - 1.0)
    # Where nothing is shifted the mean of x is 0, and need not be added.
    mean = tl.sum(tl.where(inside, tl.where(shift > 0.0, excess, rest), 0.0)) / num_classes
    product = tl.sum(tl.where(inside, x * excess, 0.0)) / num_classes
    square = tl.sum(tl.where(inside, x * x * (excess + 1.0), 0.0)) / num_classes
    f = shift + _log1p(mean)
    first = product / (1.0 + mean)
    second = square / (1.0 + mean) - first * first
    slope = first / f
    return f, slope, (first + second) / f - slope * slope


@triton.jit
def _log1p(x):
    """log(1 + x) of a scalar, without losing digits where x is small."""
    s = x / (2.0 + x)
    square = s * s
    series = 1.0 / 7.0 + square * (1.0 / 9.0 + square * (1.0 / 11.0))
    series = 1.0 + square * (1.0 / 3.0 + square * (1.0 / 5.0 + square * series))
    return tl.where(tl.abs(s) < 0.25, 2.0 * s * series, tl.log(1.0 + x))
