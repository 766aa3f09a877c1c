"""GKL's formula with all pairs of classes, in arrays [B, K, K]."""

import numpy as np
from support.logit_cases import softmax


def brute_force(u, v, shares, gamma):
    """The weighted squared differences, from arrays [B, K, K]."""
    weights = shares**gamma
    pair_weights = weights[:, :, None] * weights[:, None, :]
    of_teacher, of_student = (z[:, :, None] - z[:, None, :] for z in (u, v))
    squares = pair_weights * (of_teacher - of_student) ** 2
    return 0.25 * squares.sum() / pair_weights.sum()


def oracle(u, v, shares, section):
    p, q = softmax(u / section.temperature), softmax(v / section.temperature)
    cross_entropy = np.mean([-sum(a * np.log(b)) for a, b in zip(p, q, strict=True)])
    differences = brute_force(u, v, shares, section.gamma)
    return section.alpha * cross_entropy + section.beta * differences
