"""The published formulas of the losses, one sample at a time, in plain float64 arithmetic.

``u`` and ``v`` are the teacher's and the student's logits of one sample, [K]; ``y`` is its label.
Probabilities are sums of exponentials, so the logits must be moderate.
"""

from itertools import combinations
from math import exp, log

import numpy as np


def softmax(z):
    powers = np.exp(np.asarray(z, dtype=np.float64) - np.max(z))
    return powers / powers.sum()


def kl(p, q):
    return sum(a * (log(a) - log(b)) for a, b in zip(p, q, strict=True))


def kd(u, v, t_tea, t_stu=None):
    t_stu = t_tea if t_stu is None else t_stu
    return t_tea * t_stu * kl(softmax(u / t_tea), softmax(v / t_stu))


def tckd(u, v, y, t_tea, t_stu=None):
    t_stu = t_tea if t_stu is None else t_stu
    p, q = softmax(u / t_tea)[y], softmax(v / t_stu)[y]
    return t_tea * t_stu * kl([p, 1 - p], [q, 1 - q])


def nckd(u, v, y, t_tea, t_stu=None):
    return kd(np.delete(u, y), np.delete(v, y), t_tea, t_stu)


def released_temperatures(u, v, tau):
    """DTKD's, as in the authors' code: of the signed maxima."""
    x, y = max(u), max(v)
    return 2 * x * tau / (x + y), 2 * y * tau / (x + y)


def standardize(z):
    return (z - z.mean()) / (z.std(ddof=1) + 1e-7)


def ls(u, v, t):
    return kd(standardize(u), standardize(v), t)


def normkd(u, v, scale):
    t_tea, t_stu = scale * u.std(ddof=1), scale * v.std(ddof=1)
    return t_tea**2 * kl(softmax(u / t_tea), softmax(v / t_stu))


def ttm(u, v, t):
    powers = softmax(u) ** (1 / t)
    return kl(powers / powers.sum(), softmax(v))


def wttm(u, v, t):
    return sum(a ** (1 / t) for a in softmax(u)) * ttm(u, v, t)


def nkd(u, v, y, t, gamma):
    p, q = softmax(u / t), softmax(v / t)
    others = 0.0
    for c in range(len(u)):
        if c != y:
            others += p[c] / (1 - p[y]) * log(q[c] / (1 - q[y]))
    return -softmax(u)[y] * log(softmax(v)[y]) - gamma * t**2 * others


def abkd(u, v, t, alpha, beta):
    total, s = 0.0, alpha + beta
    for p, q in zip(softmax(u / t), softmax(v / t), strict=True):
        if s == 0:
            total += 0.5 * (log(p) - log(q)) ** 2
        elif alpha == 0:
            total += (q**beta * log(q**beta / p**beta) - q**beta + p**beta) / beta**2
        elif beta == 0:
            total += (p**alpha * log(p**alpha / q**alpha) - p**alpha + q**alpha) / alpha**2
        else:
            inner = p**alpha * q**beta - alpha / s * p**s - beta / s * q**s
            total -= inner / (alpha * beta)
    return total


def rld(u, v, y, alpha, beta, t, t_a):
    best, own = softmax(u / t_a).max(), softmax(v / t_a)[y]
    total = alpha * t_a**2 * kl([best, 1 - best], [own, 1 - own])
    lower = [c for c in range(len(u)) if u[c] < u[y]]
    if lower:
        total += beta * kd(u[lower], v[lower], t)
    return total


def ldrld(u, v, alpha, beta, t, top_k):
    """With one masked softmax per set of classes."""

    def masked_kd(classes):
        is_in = np.zeros(len(u), dtype=bool)
        is_in[list(classes)] = True
        p = np.where(is_in, np.exp(u / t), 0) / np.exp(u / t)[is_in].sum()
        q = np.where(is_in, np.exp(v / t), 0) / np.exp(v / t)[is_in].sum()
        return t**2 * sum(p[c] * log(p[c] / q[c]) for c in range(len(u)) if is_in[c])

    best = sorted(range(len(v)), key=lambda c: -v[c])[:top_k]
    losses = [masked_kd(best)]
    for a, b in combinations(range(1, top_k + 1), 2):
        weight = 2 / (1.5 + abs(a - b)) * exp(-0.05 * (a + b))
        losses.append(weight * masked_kd([best[a - 1], best[b - 1]]))
    rest = masked_kd(set(range(len(u))) - set(best))
    return alpha * sum(losses) / len(losses) + beta * rest
