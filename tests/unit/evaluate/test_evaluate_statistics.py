"""Figures of an evaluation, counted by hand and by closed forms."""

import math

import numpy as np
import pytest

from service.evaluate.report import ClassAccuracy, Confusion
from service.evaluate.statistics import (
    accuracy_by_class,
    mean_loss,
    reliability_bins,
    wilson_interval,
    worst_confusions,
)
from service.run.predictions import INVALID, TIED, Predictions

NAMES = ["ant", "bee", "cat", "dog"]
# Nothing of dog; all of cat are right; of bee one of four is, of ant two of three.
LABELS = [0, 0, 0, 1, 1, 1, 1, 2, 2]
PREDICTED = [0, 0, 2, 1, 0, 0, TIED, 2, 2]


def predictions(labels=LABELS, predicted=PREDICTED, confidences=0.5, losses=1.0):
    count = len(labels)
    return Predictions(
        np.arange(count),
        np.array(labels, np.int32),
        np.array(predicted, np.int32),
        np.broadcast_to(np.float32(confidences), count),
        np.ones(count, bool),
        np.broadcast_to(np.float32(losses), count),
    )


@pytest.mark.parametrize(("num_right", "num_images"), [(0, 5), (7, 10), (10, 10), (6976, 10000)])
def test_the_interval_is_wilsons(num_right, num_images):
    """The closed form, with the normal distribution's 97.5 % quantile."""
    z, n, share = 1.959963984540054, num_images, num_right / num_images
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    expected = (share, center - half, center + half)
    assert wilson_interval(num_right, num_images) == pytest.approx(expected, abs=1e-12)


def test_each_class_has_its_accuracy():
    assert accuracy_by_class(predictions(), NAMES) == (
        ClassAccuracy("ant", 3, pytest.approx(2 / 3)),
        ClassAccuracy("bee", 4, 0.25),
        ClassAccuracy("cat", 2, 1.0),
        ClassAccuracy("dog", 0, None),
    )


def test_confusions_are_of_the_worst_classes_that_have_errors():
    assert worst_confusions(predictions(), NAMES) == (
        Confusion("bee", "ant", 2, 0.5),
        Confusion("bee", "several classes", 1, 0.25),
        Confusion("ant", "cat", 1, pytest.approx(1 / 3)),
    )
    nothing = worst_confusions(predictions([3], [INVALID]), NAMES)
    assert nothing == (Confusion("dog", "not finite", 1, 1.0),)


def test_a_mean_that_is_not_finite_is_none():
    assert mean_loss(predictions(losses=0.25)) == 0.25
    assert mean_loss(predictions(losses=[1.0] * 8 + [np.inf])) is None


def test_bins_without_images_have_no_accuracy():
    bins = reliability_bins(predictions(confidences=[0.95] * 4 + [0.1] * 5))
    filled = [each for each in bins if each.num_images]
    assert [each.num_images for each in filled] == [5, 4]
    assert [each.accuracy for each in filled] == pytest.approx([2 / 5, 3 / 4])
    assert [each.confidence for each in filled] == pytest.approx([0.1, 0.95])
    assert all(e.accuracy is None and e.confidence is None for e in bins if not e.num_images)
