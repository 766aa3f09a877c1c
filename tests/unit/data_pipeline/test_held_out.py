import numpy as np
import pytest

from data_pipeline.selection import split_held_out

LABELS = np.random.default_rng(0).choice(5, size=1003, p=[0.4, 0.3, 0.15, 0.1, 0.05])


def test_split_is_a_partition():
    remaining, held_out = split_held_out(LABELS, 200, seed=3)

    assert len(held_out) == 200
    assert sorted([*remaining, *held_out]) == list(range(1003))


def test_every_class_is_held_out_in_proportion_to_within_one_image():
    _, held_out = split_held_out(LABELS, 200, seed=3)

    shares = np.bincount(LABELS) * 200 / 1003
    assert np.all(np.abs(np.bincount(LABELS[held_out], minlength=5) - shares) < 1)


def test_held_out_images_depend_only_on_the_seed():
    first, again, other = (split_held_out(LABELS, 200, seed).held_out for seed in (3, 3, 4))

    assert np.array_equal(first, again)
    # Two random fifths share about 40 images, with a standard deviation of about five.
    assert 20 < len(np.intersect1d(first, other)) < 60


def test_images_of_a_class_are_equally_likely():
    labels = np.zeros(20, np.int64)
    chosen = [split_held_out(labels, 5, seed).held_out for seed in range(4000)]

    counts = np.bincount(np.concatenate(chosen), minlength=20)
    # Each is chosen in a quarter of 4,000 splits; the standard deviation is 27.
    assert np.all(np.abs(counts - 1000) < 140)


def test_class_without_remaining_images_is_an_error():
    labels = np.array([0] * 10 + [1])

    with pytest.raises(ValueError, match="smallest class has 1 images"):
        split_held_out(labels, 6, seed=0)
    with pytest.raises(ValueError, match="nothing to train on"):
        split_held_out(np.zeros(5, np.int64), 5, seed=0)
