"""What the fused losses' Triton kernels compute rows' sums with."""

import math

import triton
import triton.language as tl

LOG2_E, LOG_2 = tl.constexpr(math.log2(math.e)), tl.constexpr(math.log(2.0))


# Several reductions at once: each by itself waits for all threads of the row.
@triton.jit
def largest(*pairs):
    """Of each the larger."""
    HALF: tl.constexpr = len(pairs) // 2
    found = ()
    for n in tl.static_range(HALF):
        found += (tl.maximum(pairs[n], pairs[HALF + n]),)
    return found


@triton.jit
def add(*pairs):
    """Each with its other."""
    HALF: tl.constexpr = len(pairs) // 2
    sums = ()
    for n in tl.static_range(HALF):
        sums += (pairs[n] + pairs[HALF + n],)
    return sums


@triton.jit
def add_and_first(*pairs):
    """As ``add``, but of the last ones the least."""
    LAST: tl.constexpr = len(pairs) // 2 - 1
    sums = ()
    for n in tl.static_range(LAST):
        sums += (pairs[n] + pairs[LAST + 1 + n],)
    return sums + (tl.minimum(pairs[LAST], pairs[2 * LAST + 1]),)


@triton.jit
def log_of(x, less_one):
    """log(x) of a scalar, of which x - 1 is given: without losing digits where this is small.

    Where it is not, x is used, of which x - 1 has few digits if x is near 0.
    """
    s = less_one / (1.0 + x)
    square = s * s
    series = 1.0 / 7.0 + square * (1.0 / 9.0 + square * (1.0 / 11.0))
    series = 1.0 + square * (1.0 / 3.0 + square * (1.0 / 5.0 + square * series))
    return tl.where(tl.abs(s) < 0.25, 2.0 * s * series, LOG_2 * tl.log2(x))
