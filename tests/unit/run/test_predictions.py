"""Predictions of an evaluation: calibration, classes and agreement, counted image by image."""

import math

import numpy as np
import pytest

from service.run.predictions import (
    INVALID,
    TIED,
    Predictions,
    agreement,
    class_accuracies,
    read_predictions,
    reliability,
)
from service.spec.errors import BadInputError


def make(predicted, labels, confidences=None, samples=None):
    count = len(labels)
    return Predictions(
        np.arange(count) if samples is None else np.array(samples),
        np.array(labels, np.int32),
        np.array(predicted, np.int32),
        np.full(count, 0.5, np.float32) if confidences is None else np.float32(confidences),
        np.ones(count, bool),
        np.zeros(count, np.float32),
    )


def random_predictions(seed=0, count=1000):
    generator = np.random.default_rng(seed)
    labels, predicted = generator.integers(0, 7, (2, count))
    return make(predicted, labels, generator.uniform(0.01, 1.0, count))


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_calibration_error_is_that_of_a_count_by_hand(num_bins):
    found = random_predictions()
    error = 0.0
    for index in range(num_bins):
        low, high = index / num_bins, (index + 1) / num_bins
        inside = [i for i, c in enumerate(found.confidences.tolist()) if low < c <= high]
        if inside:
            accuracy = sum(found.predicted[i] == found.labels[i] for i in inside) / len(inside)
            confidence = math.fsum(float(found.confidences[i]) for i in inside) / len(inside)
            error += len(inside) / 1000 * abs(accuracy - confidence)
    diagram = reliability(found, num_bins)
    assert diagram.counts.sum() == 1000
    assert diagram.calibration_error == pytest.approx(error, rel=1e-9)


def test_a_network_that_is_as_right_as_it_says_has_no_calibration_error():
    labels = [0] * 8
    found = make([0, 0, 0, 1, 0, 1, 1, 1], labels, [0.75] * 4 + [0.25] * 4)
    assert reliability(found).calibration_error == 0.0


def test_images_with_invalid_logits_have_no_confidence_but_are_wrong():
    found = make([0, INVALID, TIED, 1], [0, 0, 1, 1], [1.0, 0.0, 0.5, 1.0])
    diagram = reliability(found)
    assert diagram.counts.sum() == 3
    assert diagram.calibration_error == pytest.approx(0.5 / 3)
    assert class_accuracies(found, 3)[:2].tolist() == [0.5, 0.5]
    assert math.isnan(class_accuracies(found, 3)[2])


def test_agreement_is_counted_over_the_images_of_both():
    first = make([0, 1, 2, TIED, INVALID], [0] * 5)
    second = make([9, 1, 2, TIED, INVALID], [0] * 5, samples=[7, 1, 0, 3, 4])
    # Images 0, 1, 3 and 4 are in both; only that of image 1 is the same class.
    assert agreement(first, second) == 1 / 4
    assert math.isnan(agreement(first, make([0], [0], samples=[9])))


def test_file_keeps_every_value(tmp_path):
    found = random_predictions(3)
    found.write(tmp_path / "some.safetensors")
    for read, written in zip(read_predictions(tmp_path / "some.safetensors"), found, strict=True):
        assert read.dtype == written.dtype
        assert read.tolist() == written.tolist()
    assert read_predictions(tmp_path / "absent.safetensors") is None


@pytest.mark.parametrize("damage", ["cut", "garbage", "another file", "lengths"])
def test_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "some.safetensors"
    found = random_predictions()
    if damage == "lengths":
        found = found._replace(labels=found.labels[:-1])
    found.write(path)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-100])
    elif damage == "garbage":
        path.write_bytes(b"\xff" * 100)
    elif damage == "another file":
        path.write_bytes(content.replace(b'"losses"', b'"loss_s"'))
    with pytest.raises(BadInputError, match=r"some\.safetensors"):
        read_predictions(path)


def test_spaced_images_are_the_first_the_last_and_those_between():
    found = random_predictions(count=101)
    assert found.spaced(5).samples.tolist() == [0, 25, 50, 75, 100]
    assert found.spaced(1000).samples.tolist() == list(range(101))


def test_confidence_that_rounding_has_raised_above_1_is_in_the_last_of_15_bins():
    confidences = np.nextafter(np.float32(1), np.float32(2)), 1.0, 0.0
    diagram = reliability(make([0, 0, 1], [0, 1, 1], confidences))
    assert diagram.counts.tolist() == [1, *[0] * 13, 2]
    assert diagram.accuracies[[0, -1]].tolist() == [1.0, 0.5]
