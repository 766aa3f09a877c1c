"""Accuracy: which predictions count as correct."""

import numpy as np
import pytest
import torch

from service.training.distributed import World
from service.training.evaluation import evaluate, is_among_best

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("num_best", [1, 3, 5])
def test_distinct_logits_are_ranked_as_numpy_ranks_them(num_best):
    generator = np.random.default_rng(0)
    logits = generator.permuted(np.tile(np.arange(9.0), (200, 1)), axis=1)
    labels = generator.integers(0, 9, 200)
    best = np.argsort(-logits, axis=1)[:, :num_best]
    expected = (best == labels[:, None]).any(axis=1)
    found = is_among_best(torch.tensor(logits), torch.tensor(labels), num_best)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("logits", "label", "num_best", "expected"),
    [
        ([2.0, 2.0, 1.0], 0, 1, False),
        ([2.0, 2.0, 1.0], 1, 1, False),
        ([2.0, 2.0, 1.0], 0, 2, True),
        ([2.0, 2.0, 2.0, 1.0], 2, 2, False),
        ([0.0, 0.0, 0.0], 2, 5, True),
        ([NAN, 1.0, 0.0], 0, 1, False),
        ([NAN, NAN, NAN], 1, 5, False),
        ([NAN, 1.0, 0.0], 1, 1, False),
        ([NAN, 1.0, 0.0], 1, 5, False),
        ([INF, 1.0, 0.0], 0, 1, False),
        ([INF, 1.0, 0.0], 1, 5, False),
        ([-INF, -INF, -INF], 1, 5, False),
        # A class that is masked.
        ([-INF, 1.0, 0.0], 1, 1, True),
        ([-INF, 1.0, 0.0], 0, 2, False),
    ],
)
def test_ties_and_invalid_logits_count_against_the_label(logits, label, num_best, expected):
    found = is_among_best(torch.tensor([logits]), torch.tensor([label]), num_best)
    assert found.tolist() == [expected]


def test_images_with_invalid_logits_are_counted_and_wrong():
    class Batch:
        images = torch.zeros(5, 2, 2, 3, dtype=torch.uint8)
        labels = torch.tensor([0, 0, 0, 0, 0])

    rows = [[9.0, 1.0], [9.0, NAN], [INF, 1.0], [9.0, -INF], [-INF, -INF]]
    world = World(0, 1, torch.device("cpu"), 1)
    accuracy = evaluate(lambda pixels: torch.tensor(rows), [Batch()], world)
    assert (accuracy.top1, accuracy.num_nonfinite, accuracy.num_images) == (2 / 5, 3, 5)
    metrics = accuracy.as_metrics("val")
    assert metrics["val/nonfinite_images"] == 3
    assert "val/nonfinite_images" not in accuracy._replace(num_nonfinite=0).as_metrics("val")


def test_place_of_a_tied_class_does_not_change_the_accuracy():
    class Batch:
        images = torch.zeros(4, 2, 2, 3, dtype=torch.uint8)
        labels = torch.tensor([0, 1, 2, 3])

    world = World(0, 1, torch.device("cpu"), 1)
    accuracy = evaluate(lambda pixels: torch.zeros(len(pixels), 6), [Batch()], world)
    assert (accuracy.top1, accuracy.top5) == (0.0, 0.0)
