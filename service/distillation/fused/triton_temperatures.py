"""DTKD's temperatures of one row in Triton; service/distillation/temperature.py has the rules.

The steps are those of temperatures.h.
"""

import torch
import triton
import triton.language as tl

from service.distillation.fused.triton_sums import LOG2_E, log_of, sums_of
from service.distillation.temperature import FLAT_RMS, LARGE_LOGIT, NUM_ROOT_STEPS

# Rules of temperatures; NONE: there is no such term.
NONE, LARGEST, LARGEST_ABSOLUTE, LOGSUMEXP = map(tl.constexpr, range(4))
NUM_STEPS = tl.constexpr(NUM_ROOT_STEPS)
LARGE = tl.constexpr(LARGE_LOGIT)
FLAT = tl.constexpr(FLAT_RMS)
TINY = tl.constexpr(float(torch.finfo(torch.float32).tiny))
CLOSE_GAP = tl.constexpr(1e-3)


@triton.jit
def closed_form(u_top, u_low, u_depth, v_top, v_low, v_depth, floor, KIND: tl.constexpr):
    """Both shares; whether they are the rule's, and whether they have its form when centered."""
    x, y = u_top, v_top
    x_centered, y_centered = -u_depth, -v_depth
    if KIND == LARGEST_ABSOLUTE:
        x, y = tl.maximum(u_top, -u_low), tl.maximum(v_top, -v_low)
        x_centered = tl.maximum(-u_depth, u_top + u_depth - u_low)
        y_centered = tl.maximum(-v_depth, v_top + v_depth - v_low)
    by_both = 1.0 / (x + y)
    share, other = x * by_both, y * by_both
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
def root(u, v, u_depth, v_depth, temperature, floor, inside, by_classes):
    """Both shares at the root, or at the nearest bound; whether it is a root."""
    scale = 0.5 / temperature
    u_top, v_top = -u_depth * scale, -v_depth * scale
    is_finite = (u_top < float("inf")) & (v_top < float("inf"))
    u, v = tl.where(inside, u - u_depth, 0.0) * scale, tl.where(inside, v - v_depth, 0.0) * scale
    u, v = tl.where(is_finite, u, 0.0), tl.where(is_finite, v, 0.0)
    squares = sums_of((u * u, v * v))
    x, y = tl.sqrt(squares[0] * by_classes), tl.sqrt(squares[1] * by_classes)
    is_varied = (x > 0.0) | (y > 0.0)
    highest = tl.log((1.0 - floor) / floor + tl.zeros_like(x))
    logit = tl.where(is_varied, tl.log(x / y), 0.0)
    logit = tl.minimum(tl.maximum(logit, -highest), highest)
    low, high = -highest, highest
    num_left = tl.where(tl.minimum(x, y) < FLAT, 0, NUM_STEPS)
    while num_left > 0:
        share = 1.0 / (1.0 + tl.exp(-logit))
        other = 1.0 / (1.0 + tl.exp(logit))
        f, f_slope, f_bend, g, g_slope, g_bend = _sharpness(
            u, v, u_top, v_top, share, other, inside, by_classes
        )
        by_g = 1.0 / g
        gap = log_of(f * by_g, (f - g) * by_g)
        slope = -other * f_slope - share * g_slope
        bend = other * other * f_bend - share * share * g_bend
        bend += share * other * (f_slope - g_slope)
        low, high = tl.where(gap > 0.0, logit, low), tl.where(gap <= 0.0, logit, high)
        halley = 1.0 - 0.5 * gap * bend / (slope * slope)
        found = logit - gap / (slope * tl.minimum(tl.maximum(halley, 0.3), 3.0))
        bounded = tl.minimum(tl.maximum(found, low), high)
        is_end = (bounded == highest) | (bounded == -highest)
        logit = tl.where((bounded == found) | is_end, bounded, 0.5 * (low + high))
        # The next step would move by the order of the cube.
        is_found = (tl.abs(gap) < CLOSE_GAP) & (is_end == 0)
        num_left = tl.where(is_found, 0, num_left - 1)
    is_root = is_finite & is_varied & (logit > -highest) & (logit < highest)
    logit = tl.where(is_finite & is_varied, logit, 0.0)
    return 1.0 / (1.0 + tl.exp(-logit)), 1.0 / (1.0 + tl.exp(logit)), is_root


@triton.jit
def _sharpness(u, v, u_top, v_top, share, other, inside, by_classes):
    """f = LSE(z / T) - log K of both centered rows; derivatives of log f to -log T."""
    u_shift = tl.maximum(u_top / share - LARGE, 0.0)
    v_shift = tl.maximum(v_top / other - LARGE, 0.0)
    parts = _excesses(u * (1.0 / share), u_shift, inside)
    parts += _excesses(v * (1.0 / other), v_shift, inside)
    sums = sums_of(parts)
    f, f_slope, f_bend = _derivatives(u_shift, sums[0], sums[1], sums[2], by_classes)
    g, g_slope, g_bend = _derivatives(v_shift, sums[3], sums[4], sums[5], by_classes)
    return f, f_slope, f_bend, g, g_slope, g_bend


@triton.jit
def _excesses(x, shift, inside):
    """For each class exp(x - shift) - 1, and what the derivatives are sums of."""
    below = x - shift
    exp = tl.exp2(below * LOG2_E)
    # exp(x) - 1 - x without losing digits, for small x.
    series = 1.0 / 720.0 + below * (1.0 / 5040.0 + below * (1.0 / 40320.0))
    series = 1.0 / 24.0 + below * (1.0 / 120.0 + below * series)
    series = below * below * (0.5 + below * (1.0 / 6.0 + below * series))
    is_small = tl.abs(below) < 0.5
    excess = tl.where(is_small, below + series, exp - 1.0)
    # Where nothing is shifted the mean of x is 0, and need not be added.
    rest = tl.where(is_small, series, exp - 1.0 - below)
    excesses = tl.where(inside, tl.where(shift > 0.0, excess, rest), 0.0)
    product = x * excess
    return excesses, product, x * (product + x)


@triton.jit
def _derivatives(shift, excess, product, square, by_classes):
    """f, and the derivatives of log f to -log T, from the sums of ``_excesses``."""
    excess, product, square = excess * by_classes, product * by_classes, square * by_classes
    f = shift + log_of(1.0 + excess, excess)
    first = product / (1.0 + excess)
    second = square / (1.0 + excess) - first * first
    slope = first / f
    return f, slope, (first + second) / f - slope * slope
