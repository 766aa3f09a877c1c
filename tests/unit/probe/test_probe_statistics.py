"""Statistics of a probe against closed forms and scipy."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from support.teacher_logits import posteriors

from service.probe.statistics import (
    chance,
    correct_predictions,
    entropies,
    max_probabilities,
    p_value_of_gain,
    share_of,
    temperature_with_entropy,
)


@pytest.mark.parametrize(("count", "num_images"), [(0, 10), (7, 10), (900, 1000), (50, 50)])
def test_intervals_are_wilsons(count, num_images):
    """Closed form: Wilson, JASA 1927."""
    found = share_of(torch.arange(num_images) < count)
    z, share = scipy.stats.norm.ppf(0.975), count / num_images
    center = (share + z**2 / (2 * num_images)) / (1 + z**2 / num_images)
    spread = share * (1 - share) / num_images + z**2 / (4 * num_images**2)
    half = z * math.sqrt(spread) / (1 + z**2 / num_images)
    assert found.value == share
    assert (found.low, found.high) == pytest.approx((center - half, center + half), abs=1e-12)


@pytest.mark.parametrize(("num_won", "num_lost"), [(0, 0), (0, 5), (9, 1), (30, 30)])
def test_the_p_value_is_that_of_a_fair_coin(num_won, num_lost):
    before = torch.tensor([False] * num_won + [True] * (num_lost + 3))
    after = torch.tensor([True] * num_won + [False] * num_lost + [True] * 3)
    num_flips = num_won + num_lost
    tail = sum(math.comb(num_flips, count) for count in range(num_won, num_flips + 1))
    assert p_value_of_gain(before, after) == pytest.approx(tail / 2**num_flips)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_entropies_and_maxima_are_those_of_the_softened_predictions(temperature):
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(20, 7, generator=generator, dtype=torch.float64)
    logits[0, 3] = -math.inf
    exact = scipy.special.softmax(logits.numpy() / temperature, axis=1)
    np.testing.assert_allclose(
        entropies(logits, temperature), scipy.stats.entropy(exact, axis=1), atol=1e-12
    )
    np.testing.assert_allclose(max_probabilities(logits / temperature), exact.max(axis=1))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_the_mean_entropy_at_the_temperature_is_the_wanted_share(share):
    logits = 4 * posteriors(200, 10).log().clamp(min=-9)
    temperature = temperature_with_entropy(logits, share)
    probabilities = scipy.special.softmax(logits.numpy() / temperature, axis=1)
    mean = scipy.stats.entropy(probabilities, axis=1).mean()
    assert 0.5 < temperature < 16
    assert mean == pytest.approx(share * math.log(10), rel=1e-6)


def test_temperatures_are_clipped():
    even, sure = torch.zeros(3, 4, dtype=torch.float64), 1e4 * torch.eye(4, dtype=torch.float64)
    assert temperature_with_entropy(even, 0.1) == pytest.approx(0.5)
    assert temperature_with_entropy(sure, 0.6) == pytest.approx(16)


def test_ties_and_invalid_logits_are_errors_and_chance_is_the_largest_class():
    logits = torch.tensor([[1.0, 0.0], [1.0, 1.0], [math.nan, 0.0], [0.0, -math.inf]])
    labels = torch.tensor([0, 0, 1, 0])
    assert correct_predictions(logits, labels).tolist() == [True, False, False, True]
    assert chance(labels) == 0.75
