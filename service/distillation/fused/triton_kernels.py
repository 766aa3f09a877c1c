"""The fused losses' Triton kernels: one program per row, which stays in registers for all terms.

The arithmetic is that of the C sources in this folder, where its steps are explained.
"""

import torch
import triton
import triton.language as tl

from service.distillation.temperature import FLAT_RMS, LARGE_LOGIT, NUM_ROOT_STEPS

# Of a softened term; NONE: there is no such term.
NONE, FIXED, LARGEST, LARGEST_ABSOLUTE, LOGSUMEXP = map(tl.constexpr, range(5))
NUM_STEPS = tl.constexpr(NUM_ROOT_STEPS)
LARGE = tl.constexpr(LARGE_LOGIT)
FLAT = tl.constexpr(FLAT_RMS)
TINY = tl.constexpr(float(torch.finfo(torch.float32).tiny))


@triton.jit
def scale_kernel(values, factor, num_values, BLOCK: tl.constexpr):
    """Multiply values in place by a factor, unless it is 1."""
    by = tl.load(factor)
    if by != 1.0:
        places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        found = tl.load(values + places, mask=places < num_values)
        tl.store(values + places, found * by, mask=places < num_values)


@triton.jit
def rows_kernel(
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
    """All terms of one row: their losses to ``values`` [num_terms + 1, P], and the gradient.

    CE_AT, A_AT and B_AT are the terms' places there; A and B are softened ones.
    """
    row = tl.program_id(0).to(tl.int64)
    classes = tl.arange(0, BLOCK)
    inside = classes < num_classes
    v = tl.load(student_rows + row * num_classes + classes, mask=inside, other=0.0)
    u = v
    if A_KIND != NONE:
        u = tl.load(teacher_rows + row * num_classes + classes, mask=inside, other=0.0)
    u_inside, v_inside = tl.where(inside, u, -float("inf")), tl.where(inside, v, -float("inf"))
    u_top, v_top = tl.reduce((u_inside, v_inside), 0, _max_of_each)
    u_below, v_below = tl.where(inside, u - u_top, 0.0), tl.where(inside, v - v_top, 0.0)
    # From the top to the mean: what centering adds to a row's largest logit.
    u_depth, v_depth = tl.reduce((u_below, v_below), 0, _add_2)
    u_depth, v_depth = u_depth / num_classes, v_depth / num_classes
    gradient = tl.zeros_like(v)
    total = 0.0
    if CE_AT >= 0:
        loss, change = _cross_entropy(
            v_below, v_depth, tl.load(labels + row), smoothing, ce_weight / num_rows, classes,
            inside, num_classes,
        )  # fmt: skip
        tl.store(values + CE_AT * num_rows + row, loss)
        total += ce_weight * loss
        gradient += change
    if A_KIND != NONE:
        scale = 1.0
        if HAS_WEIGHTS:
            scale = tl.load(row_weights + row)
        loss, change = _softened(
            u, v, u_top, v_top, u_below, v_below, u_depth, v_depth, a_temperature, a_floor,
            a_weight * scale / num_rows, classes, inside, num_classes, A_KIND,
            A_ATTACHED,
        )  # fmt: skip
        tl.store(values + A_AT * num_rows + row, scale * loss)
        total += a_weight * scale * loss
        gradient += change
        if B_KIND != NONE:
            loss, change = _softened(
                u, v, u_top, v_top, u_below, v_below, u_depth, v_depth, b_temperature, b_floor,
                b_weight * scale / num_rows, classes, inside, num_classes, B_KIND,
                B_ATTACHED,
            )  # fmt: skip
            tl.store(values + B_AT * num_rows + row, scale * loss)
            total += b_weight * scale * loss
            gradient += change
    tl.store(values + NUM_TERMS * num_rows + row, total)
    if WITH_GRADIENT:
        tl.store(gradient_rows + row * num_classes + classes, gradient, mask=inside)


@triton.jit
def _cross_entropy(below, depth, label, smoothing, weight, classes, inside, num_classes):
    """The loss of a row, and the gradient times ``weight``."""
    exp = tl.where(inside, tl.exp(below), 0.0)
    is_label = classes == label
    exp_sum, own = tl.reduce((exp, tl.where(is_label, below, 0.0)), 0, _add_2)
    log_sum = tl.log(exp_sum)
    loss = (1.0 - smoothing) * (log_sum - own)
    if smoothing > 0.0:
        loss += smoothing * (log_sum - depth)
    loss = tl.where((label >= 0) & (label < num_classes), loss, float("nan"))
    target = tl.where(is_label, 1.0 - smoothing, 0.0) + smoothing / num_classes
    return loss, weight * (exp * (1.0 / exp_sum) - target)


@triton.jit
def _softened(
    u, v, u_top, v_top, u_below, v_below, u_depth, v_depth, temperature, floor, weight, classes,
    inside, num_classes, KIND: tl.constexpr, ATTACHED: tl.constexpr,
):  # fmt: skip
    """The loss of a row, and the gradient times ``weight``."""
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
    # A division costs ten times as much as a product.
    a, b = u_below * (1.0 / t), v_below * (1.0 / r)
    p = tl.where(inside, tl.exp(a), 0.0)
    q = tl.where(inside, tl.exp(b), 0.0)
    p_sum, q_sum = tl.reduce((p, q), 0, _add_2)
    p, q = p * (1.0 / p_sum), q * (1.0 / q_sum)
    difference = _log1p((p_sum - q_sum) / q_sum)
    logs = tl.where(inside, (a - b) - difference, 0.0)
    change = weight * t * (q - p)
    if not ATTACHED:
        kl = tl.sum(p * logs)
    else:
        kl, product = tl.reduce((p * logs, p * logs * a), 0, _add_2)
        u_pull, v_pull, cross = tl.reduce((p * a, q * b, p * b), 0, _add_3)
        by_t = r * (kl - (product - kl * u_pull))
        by_r = t * (kl - (v_pull - cross))
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
    x = z * (1.0 / temperature)
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
    excesses = tl.where(inside, tl.where(shift > 0.0, excess, rest), 0.0)
    products = tl.where(inside, x * excess, 0.0)
    squares = tl.where(inside, x * x * (excess + 1.0), 0.0)
    mean, product, square = tl.reduce((excesses, products, squares), 0, _add_3)
    mean, product, square = mean / num_classes, product / num_classes, square / num_classes
    f = shift + _log1p(mean)
    first = product / (1.0 + mean)
    second = square / (1.0 + mean) - first * first
    slope = first / f
    return f, slope, (first + second) / f - slope * slope


@triton.jit
def _max_of_each(a, b, other_a, other_b):
    return tl.maximum(a, other_a), tl.maximum(b, other_b)


# Sums of several at once: each sum by itself waits for all threads of the row.
@triton.jit
def _add_2(a, b, other_a, other_b):
    return a + other_a, b + other_b


@triton.jit
def _add_3(a, b, c, other_a, other_b, other_c):
    return a + other_a, b + other_b, c + other_c


@triton.jit
def _log1p(x):
    """log(1 + x) of a scalar, without losing digits where x is small."""
    s = x / (2.0 + x)
    square = s * s
    series = 1.0 / 7.0 + square * (1.0 / 9.0 + square * (1.0 / 11.0))
    series = 1.0 + square * (1.0 / 3.0 + square * (1.0 / 5.0 + square * series))
    return tl.where(tl.abs(s) < 0.25, 2.0 * s * series, tl.log(1.0 + x))
