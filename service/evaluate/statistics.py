"""What the predictions of an evaluation say: intervals, classes, confusions, calibration."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import binomtest

from service.evaluate.report import (
    ClassAccuracy,
    Confusion,
    Interval,
    ReliabilityBin,
    finite_or_none,
)
from service.run.predictions import INVALID, TIED, Predictions, class_accuracies, reliability

NUM_WORST_CLASSES, NUM_CONFUSIONS = 5, 3
NO_CLASS = {TIED: "several classes", INVALID: "not finite"}
"""What a confusion says where no single class was predicted."""


def wilson_interval(num_right: int, num_images: int) -> Interval:
    """The share of ``num_right`` among one or more images, with its 95 % interval.

    Source: Wilson's score interval, JASA 22, 1927, without correction for continuity.
    """
    found = binomtest(num_right, num_images).proportion_ci(0.95, "wilson")
    return Interval(num_right / num_images, float(found.low), float(found.high))


def mean_loss(predictions: Predictions) -> float | None:
    """Mean cross-entropy in nats; None where an image has no finite one."""
    return finite_or_none(float(predictions.losses.astype(np.float64).mean()))


def accuracy_by_class(predictions: Predictions, names: Sequence[str]) -> tuple[ClassAccuracy, ...]:
    """Top-1 of each class; ``names``: of the classes by label."""
    counts = np.bincount(predictions.labels, minlength=len(names)).tolist()
    shares = map(finite_or_none, class_accuracies(predictions, len(names)).tolist())
    return tuple(map(ClassAccuracy, names, counts, shares))


def worst_confusions(predictions: Predictions, names: Sequence[str]) -> tuple[Confusion, ...]:
    """What the images of the worst classes are most often taken for, the worst class first.

    Of equally bad classes, the first by label; classes without errors are none of them.
    """
    accuracies = class_accuracies(predictions, len(names))
    # NaN, of classes without images, is sorted to the end.
    order = np.argsort(accuracies, kind="stable")[:NUM_WORST_CLASSES]
    worst = [label for label in order.tolist() if accuracies[label] < 1]
    return tuple(each for label in worst for each in _confusions(predictions, names, label))


def _confusions(predictions: Predictions, names: Sequence[str], label: int) -> Iterator[Confusion]:
    predicted = predictions.predicted[predictions.labels == label]
    others, counts = np.unique(predicted[predicted != label], return_counts=True)
    for place in np.argsort(-counts, kind="stable")[:NUM_CONFUSIONS]:
        other, count = int(others[place]), int(counts[place])
        taken_for = NO_CLASS[other] if other in NO_CLASS else names[other]
        yield Confusion(names[label], taken_for, count, count / len(predicted))


def reliability_bins(predictions: Predictions) -> tuple[ReliabilityBin, ...]:
    """The reliability diagram: see ``service.run.predictions.reliability``."""
    found = reliability(predictions)
    accuracies, confidences = (
        map(finite_or_none, values.tolist()) for values in (found.accuracies, found.confidences)
    )
    return tuple(map(ReliabilityBin, found.counts.tolist(), accuracies, confidences))
