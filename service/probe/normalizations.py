"""Whether a teacher predicts better with another normalization than its own."""

from typing import NamedTuple

from torch import Tensor

from service.probe.sampling import Renormalized
from service.probe.statistics import (
    chance,
    correct_predictions,
    num_wins_of_a_gain,
    p_value_of_gain,
    share_of,
)

SIGNIFICANCE = 0.01
"""Largest p-value of a gain, divided by the number of normalizations that are tried (Bonferroni):
of a hundred good teachers, at most one gets a warning."""


class BetterNormalization(NamedTuple):
    """``top1_before``, ``top1_after``: with the teacher's own and with this one, 0 to 1."""

    name: str
    top1_before: float
    top1_after: float


def better_normalization(renormalized: Renormalized) -> BetterNormalization | None:
    """Another normalization with which more of the same images are classified correctly.

    The first one that the best is not clearly better than: several may differ by little.
    """
    own, labels = renormalized.own
    before, found = correct_predictions(own, labels), {}
    for name, logits in renormalized.others.items():
        after = correct_predictions(logits, labels)
        is_gain = p_value_of_gain(before, after) < _level(renormalized)
        # From nothing to chance is no gain.
        if is_gain and share_of(after).low > chance(labels):
            found[name] = after
    if not found:
        return None
    best = max(found.values(), key=_num_correct)
    name = next(one for one in found if p_value_of_gain(found[one], best) >= _level(renormalized))
    return BetterNormalization(name, share_of(before).value, share_of(found[name]).value)


def least_seen_gain(renormalized: Renormalized) -> float:
    """The smallest gain in top-1 (0 to 1) that ``better_normalization`` would find in the sample.

    It is that of a normalization that errs on as many images that are right with the teacher's own
    as the best of the others does.
    """
    own, labels = renormalized.own
    before = correct_predictions(own, labels)
    afters = (correct_predictions(logits, labels) for logits in renormalized.others.values())
    best = max(afters, key=_num_correct)
    num_lost = int((before & ~best).sum())
    return (num_wins_of_a_gain(num_lost, _level(renormalized)) - num_lost) / len(labels)


def _level(renormalized: Renormalized) -> float:
    return SIGNIFICANCE / len(renormalized.others)


def _num_correct(correct: Tensor) -> int:
    return int(correct.sum())
