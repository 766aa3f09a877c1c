"""What the fused losses' Triton kernels compute rows' sums with."""

import math

import triton
import triton.language as tl

LOG2_E, LOG_2 = tl.constexpr(math.log2(math.e)), tl.constexpr(math.log(2.0))


# Several reductions at once: each by itself waits for all threads of the row. Triton 3.6, that of
# torch 2.11, has no *args in functions that combine.
@triton.jit
def sums_of(parts):
    """The sum of each of 2 to 6 rows."""
    if len(parts) == 2:
        sums = tl.reduce(parts, 0, _add_2)
    elif len(parts) == 3:
        sums = tl.reduce(parts, 0, _add_3)
    elif len(parts) == 4:
        sums = tl.reduce(parts, 0, _add_4)
    elif len(parts) == 5:
        sums = tl.reduce(parts, 0, _add_5)
    else:
        sums = tl.reduce(parts, 0, _add_6)
    return sums


@triton.jit
def sums_and_first(parts):
    """The sum of each of 6 rows, and the least of a seventh."""
    return tl.reduce(parts, 0, _add_6_and_first)


@triton.jit
def largest_of(parts):
    """The largest of each of 1, 2 or 4 rows."""
    if len(parts) == 1:
        found = tl.reduce(parts, 0, _largest_1)
    elif len(parts) == 2:
        found = tl.reduce(parts, 0, _largest_2)
    else:
        found = tl.reduce(parts, 0, _largest_4)
    return found


@triton.jit
def _add_2(a, b, to_a, to_b):
    return a + to_a, b + to_b


@triton.jit
def _add_3(a, b, c, to_a, to_b, to_c):
    return a + to_a, b + to_b, c + to_c


@triton.jit
def _add_4(a, b, c, d, to_a, to_b, to_c, to_d):
    return a + to_a, b + to_b, c + to_c, d + to_d


@triton.jit
def _add_5(a, b, c, d, e, to_a, to_b, to_c, to_d, to_e):
    return a + to_a, b + to_b, c + to_c, d + to_d, e + to_e


@triton.jit
def _add_6(a, b, c, d, e, f, to_a, to_b, to_c, to_d, to_e, to_f):
    return a + to_a, b + to_b, c + to_c, d + to_d, e + to_e, f + to_f


@triton.jit
def _add_6_and_first(a, b, c, d, e, f, place, to_a, to_b, to_c, to_d, to_e, to_f, other_place):
    sums = (a + to_a, b + to_b, c + to_c, d + to_d, e + to_e, f + to_f)
    return sums + (tl.minimum(place, other_place),)


@triton.jit
def _largest_1(a, or_a):
    return (tl.maximum(a, or_a),)


@triton.jit
def _largest_2(a, b, or_a, or_b):
    return tl.maximum(a, or_a), tl.maximum(b, or_b)


@triton.jit
def _largest_4(a, b, c, d, or_a, or_b, or_c, or_d):
    first = (tl.maximum(a, or_a), tl.maximum(b, or_b))
    return first + (tl.maximum(c, or_c), tl.maximum(d, or_d))


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
