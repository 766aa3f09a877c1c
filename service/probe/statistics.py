"""What logits say: accuracies with their intervals, entropies, and the temperatures to get these.

Logits are [N, K] in float64, labels [N].
"""

import itertools
import math
from typing import NamedTuple

import torch
from scipy.stats import binomtest
from torch import Tensor

from service.training.evaluation import is_among_best

SIGNIFICANCE = 0.001
"""Largest p-value of a gain that is taken for real."""
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.5, 16.0
NUM_BISECTIONS = 40


class Share(NamedTuple):
    """``num_counted`` of ``num_images``, and the 95 % interval (0 to 1) of that share."""

    num_counted: int
    num_images: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share, 0 to 1."""
        return self.num_counted / self.num_images


def share_of(is_counted: Tensor) -> Share:
    """The share of true values among some, [N], bool, with Wilson's score interval."""
    count, num_images = int(is_counted.sum()), len(is_counted)
    interval = binomtest(count, num_images).proportion_ci(0.95, "wilson")
    return Share(count, num_images, float(interval.low), float(interval.high))


def correct_predictions(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each prediction is correct, [N], as evaluations count: a tie is an error."""
    return is_among_best(logits, labels, 1)


def chance(labels: Tensor) -> float:
    """Accuracy (0 to 1) of predicting the most frequent label for all images."""
    return float(torch.bincount(labels).max()) / len(labels)


def p_value_of_gain(before: Tensor, after: Tensor) -> float:
    """One-sided p-value of more correct predictions ``after``, of the same images [N], bool.

    McNemar's exact test: without a gain, either is correct equally often where the two differ.
    """
    num_won, num_lost = int((after & ~before).sum()), int((before & ~after).sum())
    if num_won == 0:
        return 1.0
    return float(binomtest(num_won, num_won + num_lost, alternative="greater").pvalue)


def num_wins_of_a_gain(num_lost: int, significance: float) -> int:
    """The fewest wins with which ``p_value_of_gain`` is below ``significance``."""
    wins = itertools.count(num_lost + 1)
    return next(
        num_won
        for num_won in wins
        if binomtest(num_won, num_won + num_lost, alternative="greater").pvalue < significance
    )


def entropies(logits: Tensor, temperature: float) -> Tensor:
    """Entropy of each softened prediction, [N], in nats; 0 log 0 is 0."""
    log_probabilities = torch.log_softmax(logits / temperature, dim=1)
    return torch.special.entr(log_probabilities.exp()).sum(dim=1)


def max_probabilities(logits: Tensor) -> Tensor:
    """Probability of the predicted class, [N]."""
    return torch.softmax(logits, dim=1).amax(dim=1)


def temperature_with_entropy(logits: Tensor, share: float) -> float:
    """The temperature at which the mean entropy is ``share`` (0 to 1) of log K, by bisection.

    The mean entropy rises with the temperature. Outside 0.5 to 16, the nearer of both.
    """
    target = share * math.log(logits.shape[1])
    low, high = MIN_TEMPERATURE, MAX_TEMPERATURE
    for _ in range(NUM_BISECTIONS):
        middle = math.sqrt(low * high)
        if float(entropies(logits, middle).mean()) < target:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)
