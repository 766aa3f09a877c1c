"""Accuracy on corrupted images, against counting one image after the other."""

import numpy as np
import pytest
import torch

from data_pipeline.batches import Batch
from service.evaluate.corrupted import (
    corrupted_accuracies,
    corruption_rows,
    mean_corrupted_top1,
)
from service.evaluate.corruptions import CORRUPTIONS, STRENGTHS, corrupted
from service.evaluate.report import CorruptedAccuracy, Interval

NUM_IMAGES = 23
SEED = 5


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (NUM_IMAGES, 4, 4, 3), dtype=np.uint8)
    return torch.from_numpy(coarse.repeat(8, axis=1).repeat(8, axis=2))


def classify(pixels):
    """Logits [B, 3] that depend on small details: a linear function of every fifth pixel."""
    values = pixels.flatten(1)[:, ::5].double()
    weights = torch.sin(torch.arange(3 * values.shape[1], dtype=torch.float64)).view(-1, 3)
    return values @ weights


@pytest.fixture(scope="module")
def labels(images):
    return classify(images).argmax(dim=1)


def batches(images, labels, batch_size):
    for start in range(0, NUM_IMAGES, batch_size):
        chosen = slice(start, start + batch_size)
        yield Batch(images[chosen], labels[chosen], np.arange(NUM_IMAGES)[chosen])


def measured(images, labels, batch_size, num_threads=2):
    chunks = batches(images, labels, batch_size)
    return corrupted_accuracies(classify, chunks, seed=SEED, num_threads=num_threads)


def test_accuracies_are_those_of_single_images(images, labels):
    found = measured(images, labels, 8)
    expected = {
        (kind, strength): np.mean(
            [
                classify(corrupted(images[n : n + 1], kind, strength, np.array([n]), SEED))
                .argmax(dim=1)
                .item()
                == labels[n]
                for n in range(NUM_IMAGES)
            ]
        )
        for kind in CORRUPTIONS
        for strength in STRENGTHS
    }
    assert [(each.kind, each.strength) for each in found] == [*expected]
    assert [each.top1.value for each in found] == pytest.approx([*expected.values()])
    assert len({each.top1.value for each in found}) > 5, "they do differ"
    assert mean_corrupted_top1(found) == pytest.approx(np.mean([*expected.values()]))


def test_batches_and_threads_change_nothing(images, labels):
    assert measured(images, labels, 23, num_threads=1) == measured(images, labels, 4, num_threads=5)


def test_each_batch_is_taken_once(images, labels):
    taken = []

    def counted():
        for batch in batches(images, labels, 10):
            taken.append(len(batch.labels))
            yield batch

    corrupted_accuracies(classify, counted(), seed=0, num_threads=1)
    assert taken == [10, 10, 3]


def test_logits_that_are_not_finite_are_wrong(images, labels):
    def broken(pixels):
        return classify(pixels) * float("nan")

    found = corrupted_accuracies(broken, batches(images, labels, 23), seed=0, num_threads=1)
    assert {each.top1.value for each in found} == {0.0}


def test_rows_have_strengths_means_and_the_share_of_the_clean_accuracy():
    shares = {"noise": (0.5, 0.3), "jpeg": (0.7, 0.1)}
    accuracies = [
        CorruptedAccuracy(kind, strength, Interval(value, 0.0, 1.0))
        for kind, values in shares.items()
        for strength, value in enumerate(values, start=1)
    ]
    rows = [tuple(row.values()) for row in corruption_rows(accuracies, clean_top1=0.8)]
    assert rows == [
        ("noise", "50.00", "30.00", "40.00", "50.0"),
        ("jpeg", "70.00", "10.00", "40.00", "50.0"),
        ("all", "60.00", "20.00", "40.00", "50.0"),
    ]
    assert [row["% of clean"] for row in corruption_rows(accuracies, 0.0)] == ["", "", ""]
