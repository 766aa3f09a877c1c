"""The fused losses' Triton kernels: one program per row, which stays in registers for all terms.

The arithmetic is that of the C sources in this folder, where its steps are explained. What is known
of a row at the same time is reduced at once: its ends, then all sums that need no rule's
temperature, then those of a rule's term.
"""

import triton
import triton.language as tl

from service.distillation.fused.triton_sums import (
    LOG2_E,
    LOG_2,
    largest_of,
    log_of,
    sums_and_first,
    sums_of,
)
from service.distillation.fused.triton_temperatures import (
    LARGEST_ABSOLUTE,
    LOGSUMEXP,
    NONE,
    closed_form,
    root,
)

# The logit behind a row's last class: also without the largest one it is finite, and its
# exponential 0, and so is their product.
OUTSIDE = tl.constexpr(-1e20)


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
    teacher_rows, student_rows, labels, row_weights, gradient_rows, values, num_rows, num_vectors,
    by_rows, by_classes, ce_weight, smoothing, fixed_weight, fixed_temperature, to_exponent,
    a_weight, a_temperature, a_floor, b_weight, b_temperature, b_floor,
    CE_AT: tl.constexpr, FIXED_AT: tl.constexpr, FIXED_IS_ONE: tl.constexpr,
    A_AT: tl.constexpr, A_KIND: tl.constexpr, A_ATTACHED: tl.constexpr,
    B_AT: tl.constexpr, B_KIND: tl.constexpr, B_ATTACHED: tl.constexpr,
    NUM_TERMS: tl.constexpr, HAS_WEIGHTS: tl.constexpr, WITH_GRADIENT: tl.constexpr,
    VECTOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All terms of one row: their losses to ``values`` [num_terms + 1, P], and the gradient.

    CE_AT, FIXED_AT, A_AT and B_AT are the terms' places there, less than 0 where there is none:
    cross-entropy, the term with a fixed temperature, and two by rules. A row has ``num_vectors``
    x VECTOR classes: that they are a multiple of VECTOR lets so many be loaded at once. by_rows and
    by_classes are 1 / num_rows and 1 / num_classes.
    """
    HAS_TEACHER: tl.constexpr = FIXED_AT >= 0 or A_KIND != NONE
    row = tl.program_id(0).to(tl.int64)
    num_classes = num_vectors * VECTOR
    start = row * num_classes
    classes = tl.arange(0, BLOCK)
    inside = classes < num_classes
    v = tl.load(student_rows + start + classes, mask=inside, other=OUTSIDE)
    u = v
    if HAS_TEACHER:
        u = tl.load(teacher_rows + start + classes, mask=inside, other=OUTSIDE)
    label, own, scale = -1, 0.0, 1.0
    if CE_AT >= 0:
        label = tl.load(labels + row)
        is_class = (label >= 0) & (label < num_classes)
        own = tl.load(student_rows + start + label, mask=is_class, other=float("nan"))
    if HAS_WEIGHTS:
        scale = tl.load(row_weights + row)
    WITH_LOWS: tl.constexpr = A_KIND == LARGEST_ABSOLUTE or B_KIND == LARGEST_ABSOLUTE
    u_top, v_top, u_low, v_low = _ends(u, v, inside, HAS_TEACHER, WITH_LOWS)
    u, v = u - u_top, v - v_top
    p, q, exp, p_sum, q_sum, distance, exp_sum, u_sum, v_sum = _early_sums(
        u, v, inside, to_exponent, CE_AT >= 0, FIXED_AT >= 0, FIXED_IS_ONE, A_KIND != NONE
    )
    total, gradient = 0.0, tl.zeros_like(v)
    if CE_AT >= 0:
        loss, gradient = _cross_entropy(
            exp, exp_sum, own - v_top, v_sum, classes == label, smoothing, ce_weight * by_rows,
            by_classes,
        )  # fmt: skip
        tl.store(values + CE_AT * num_rows + row, loss)
        total += ce_weight * loss
    if FIXED_AT >= 0:
        loss, gradient = _fixed(
            gradient, p, q, p_sum, q_sum, distance, fixed_temperature, to_exponent,
            fixed_weight * scale * by_rows,
        )  # fmt: skip
        tl.store(values + FIXED_AT * num_rows + row, scale * loss)
        total += fixed_weight * scale * loss
    ends = (u_top, u_low, u_sum * by_classes, v_top, v_low, v_sum * by_classes)
    total, gradient = _by_rule(
        total, gradient, values, num_rows, row, u, v, ends, a_temperature, a_floor, a_weight,
        scale, by_rows, classes, inside, by_classes, A_AT, A_KIND, A_ATTACHED, WITH_GRADIENT,
    )  # fmt: skip
    total, gradient = _by_rule(
        total, gradient, values, num_rows, row, u, v, ends, b_temperature, b_floor, b_weight,
        scale, by_rows, classes, inside, by_classes, B_AT, B_KIND, B_ATTACHED, WITH_GRADIENT,
    )  # fmt: skip
    tl.store(values + NUM_TERMS * num_rows + row, total)
    if WITH_GRADIENT:
        tl.store(gradient_rows + start + classes, gradient, mask=inside)


@triton.jit
def _early_sums(
    u, v, inside, to_exponent, HAS_CE: tl.constexpr, HAS_FIXED: tl.constexpr,
    FIXED_IS_ONE: tl.constexpr, HAS_RULE: tl.constexpr,
):  # fmt: skip
    """What needs no temperature of a rule, and its sums; something where it is not wanted.

    At the fixed temperature the exponentials p and q, their sums, and that of p x (u - v); at 1 the
    student's, and their sum; the sums of u and v.
    """
    p, q, exp = u, v, v
    parts = ()
    if HAS_FIXED:
        p, q = tl.exp2(u * to_exponent), tl.exp2(v * to_exponent)
        parts += (p, q, p * (u - v))
    if HAS_CE and not FIXED_IS_ONE:
        exp = tl.exp2(v * LOG2_E)
        parts += (exp,)
    DEPTHS: tl.constexpr = len(parts)
    if HAS_CE or HAS_RULE:
        parts += (tl.where(inside, v, 0.0),)
    if HAS_RULE:
        parts += (tl.where(inside, u, 0.0),)
    sums = sums_of(parts)
    p_sum, q_sum, distance = sums[0], sums[0], sums[0]
    if HAS_FIXED:
        p_sum, q_sum, distance = sums[0], sums[1], sums[2]
    exp_sum, u_sum, v_sum = sums[0], sums[0], sums[0]
    if FIXED_IS_ONE:
        exp, exp_sum = q, q_sum
    elif HAS_CE:
        exp_sum = sums[DEPTHS - 1]
    if HAS_CE or HAS_RULE:
        v_sum = sums[DEPTHS]
    if HAS_RULE:
        u_sum = sums[DEPTHS + 1]
    return p, q, exp, p_sum, q_sum, distance, exp_sum, u_sum, v_sum


@triton.jit
def _ends(u, v, inside, HAS_TEACHER: tl.constexpr, WITH_LOWS: tl.constexpr):
    """The largest of each side, and the least ones where these are wanted."""
    parts = (v,)
    if HAS_TEACHER:
        parts += (u,)
    if WITH_LOWS:
        parts += (tl.where(inside, -v, -float("inf")), tl.where(inside, -u, -float("inf")))
    found = largest_of(parts)
    # Where there is no larger one, the row is broken.
    v_top = tl.where(found[0] > OUTSIDE, found[0], float("nan"))
    u_top, u_low, v_low = v_top, v_top, v_top
    if HAS_TEACHER:
        u_top = tl.where(found[1] > OUTSIDE, found[1], float("nan"))
    if WITH_LOWS:
        v_low, u_low = -found[2], -found[3]
    return u_top, v_top, u_low, v_low


@triton.jit
def _cross_entropy(exp, exp_sum, own, below_sum, is_label, smoothing, weight, by_classes):
    """The loss of a row, and ``weight`` times its gradient."""
    log_sum = tl.log(exp_sum)
    loss = (1.0 - smoothing) * (log_sum - own)
    # Where classes are masked, the mean logit is infinite.
    loss += tl.where(smoothing > 0.0, smoothing * (log_sum - below_sum * by_classes), 0.0)
    least = weight * smoothing * by_classes
    target = tl.where(is_label, weight * (1.0 - smoothing) + least, least)
    return loss, exp * (weight / exp_sum) - target


@triton.jit
def _fixed(gradient, p, q, p_sum, q_sum, distance, temperature, to_exponent, weight):
    """The loss of a row by both sides' exponentials; ``weight`` times its gradient is added."""
    by_p, by_q = 1.0 / p_sum, 1.0 / q_sum
    kl = LOG_2 * to_exponent * by_p * distance - log_of(p_sum * by_q, (p_sum - q_sum) * by_q)
    gradient += q * (weight * temperature * by_q)
    gradient -= p * (weight * temperature * by_p)
    return temperature * temperature * kl, gradient


@triton.jit
def _by_rule(
    total, gradient, values, num_rows, row, u, v, ends, temperature, floor, weight, scale, by_rows,
    classes, inside, by_classes, AT: tl.constexpr, KIND: tl.constexpr, ATTACHED: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
):  # fmt: skip
    """The total and its gradient with a term by a rule, if there is one, which is stored."""
    if KIND != NONE:
        loss, gradient = _matched(
            gradient, u, v, ends, temperature, floor, weight * scale * by_rows, classes, inside,
            by_classes, KIND, ATTACHED, WITH_GRADIENT,
        )  # fmt: skip
        tl.store(values + AT * num_rows + row, scale * loss)
        total += weight * scale * loss
    return total, gradient


@triton.jit
def _matched(
    gradient, u, v, ends, temperature, floor, weight, classes, inside, by_classes,
    KIND: tl.constexpr, ATTACHED: tl.constexpr, WITH_GRADIENT: tl.constexpr,
):  # fmt: skip
    """The loss of a row by a rule; to the gradient, ``weight`` times that of the loss is added."""
    u_top, u_low, u_depth, v_top, v_low, v_depth = ends
    is_centered, is_negative, y = False, False, v_top
    if KIND == LOGSUMEXP:
        share, other, is_rule = root(u, v, u_depth, v_depth, temperature, floor, inside, by_classes)
    else:
        share, other, is_rule, is_centered = closed_form(
            u_top, u_low, u_depth, v_top, v_low, v_depth, floor, KIND
        )
        mean = tl.where(is_centered, v_top + v_depth, 0.0)
        is_negative = (KIND == LARGEST_ABSOLUTE) & (mean - v_low > v_top - mean)
        y = tl.where(is_negative, v_low - mean, v_top - mean)
    t, r = 2.0 * temperature * share, 2.0 * temperature * other
    # Exponents of 2, and sums of what is not normalized, so that all sums are one reduction.
    a, u_center = _exponents(u, LOG2_E / t, u_depth, by_classes)
    b, v_center = _exponents(v, LOG2_E / r, v_depth, by_classes)
    p, q = tl.exp2(a), tl.exp2(b)
    logs = p * (a - b)
    parts = (p, q, logs)
    if not (ATTACHED and WITH_GRADIENT):
        sums = sums_of(parts)
    elif KIND == LOGSUMEXP:
        sums = sums_of(parts + (p * a, logs * a, q * b))
    else:
        # As torch does, of equal logits the first is the largest.
        extreme = tl.where(is_negative, v_low - v_top, 0.0)
        places = tl.where(v == extreme, classes, classes.shape[0])
        sums = sums_and_first(parts + (p * a, logs * a, q * b, places))
    by_p, by_q = 1.0 / sums[0], 1.0 / sums[1]
    log_mean = LOG_2 * by_p * sums[2]
    kl = log_mean - log_of(sums[0] * by_q, (sums[0] - sums[1]) * by_q)
    q_weight = weight * t
    gradient -= p * (q_weight * by_p)
    if ATTACHED and WITH_GRADIENT:
        u_pull, v_pull = LOG_2 * by_p * sums[3], LOG_2 * by_q * sums[5]
        covariance = LOG_2 * LOG_2 * by_p * sums[4] - log_mean * u_pull
        by_t = r * (kl - covariance)
        by_r = t * (kl - (v_pull - (u_pull - log_mean)))
        slope = weight * 2.0 * temperature * (by_t - by_r)
        if KIND == LOGSUMEXP:
            pull = (u_pull - LOG_2 * u_center) / share + (v_pull - LOG_2 * v_center) / other
            by_share = tl.where(is_rule, -slope / (pull * r), 0.0)
            q_weight += by_share
            gradient -= by_share * by_classes
        else:
            spike = tl.where(is_rule | is_centered, -slope * share * other / y, 0.0)
            offset = tl.where(is_centered, -spike * by_classes, 0.0)
            gradient += tl.where(classes == sums[6], spike + offset, offset)
    gradient += q * (q_weight * by_q)
    return t * r * kl, gradient


@triton.jit
def _exponents(below, to_exponent, depth, by_classes):
    """Of 2, for a softmax, and their mean.

    They are less their mean, or where this is far from most of the softmax less the largest, so
    that its moments lose few digits.
    """
    top = -depth * to_exponent
    is_centered = tl.exp2(top) * by_classes < 1.0
    exponents = below * to_exponent + tl.where(is_centered, top, 0.0)
    return exponents, tl.where(is_centered, 0.0, -top)
