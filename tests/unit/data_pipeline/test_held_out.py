"""The images that a run holds out of a file."""

import itertools

import numpy as np
import pytest
from support.image_makers import converted, write_folder

from data_pipeline.beton import open_beton
from data_pipeline.encode import Encoding
from data_pipeline.selection import Selection, sample_keys, split_held_out

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.choice(5, size=1003, p=[0.4, 0.3, 0.15, 0.1, 0.05])
KEYS = GENERATOR.integers(0, 2**64, 1003, np.uint64)


def held_out_keys(labels, keys, num_images, seed):
    return set(keys[split_held_out(labels, keys, num_images, seed).held_out].tolist())


def test_split_is_a_partition():
    remaining, held_out = split_held_out(LABELS, KEYS, 200, seed=3)

    assert len(held_out) == 200
    assert sorted([*remaining, *held_out]) == list(range(1003))


def test_every_class_is_held_out_in_proportion_to_within_one_image():
    _, held_out = split_held_out(LABELS, KEYS, 200, seed=3)

    shares = np.bincount(LABELS) * 200 / 1003
    assert np.all(np.abs(np.bincount(LABELS[held_out], minlength=5) - shares) < 1)


def test_held_out_images_depend_only_on_the_seed():
    first, again, other = (split_held_out(LABELS, KEYS, 200, seed).held_out for seed in (3, 3, 4))

    assert np.array_equal(first, again)
    # Two random fifths share about 40 images, with a standard deviation of about five.
    assert 20 < len(np.intersect1d(first, other)) < 60


@pytest.mark.parametrize("keys", [np.arange(20, dtype=np.uint64), KEYS[:20]])
def test_images_of_a_class_are_equally_likely(keys):
    labels = np.zeros(20, np.int64)
    chosen = [split_held_out(labels, keys, 5, seed).held_out for seed in range(4000)]

    counts = np.bincount(np.concatenate(chosen), minlength=20)
    # Each is chosen in a quarter of 4,000 splits; the standard deviation is 27.
    assert np.all(np.abs(counts - 1000) < 140)


@pytest.mark.parametrize("seed", range(5))
def test_images_are_held_out_wherever_they_are_in_the_file(seed):
    order = np.random.default_rng(seed).permutation(1003)

    shuffled = held_out_keys(LABELS[order], KEYS[order], 200, seed)
    assert shuffled == held_out_keys(LABELS, KEYS, 200, seed)


@pytest.mark.parametrize("seed", range(5))
def test_smaller_held_out_parts_are_in_larger_ones(seed):
    parts = [held_out_keys(LABELS, KEYS, number, seed) for number in (50, 200, 201, 800)]

    # By class the numbers only grow, except that one image may move with the rounding.
    for small, large in itertools.pairwise(parts):
        assert len(small - large) <= 5
    assert parts[0] < parts[1] < parts[3]


def test_added_images_move_no_others_but_for_the_numbers_by_class():
    before = held_out_keys(LABELS[:1000], KEYS[:1000], 200, seed=2)
    after = held_out_keys(LABELS, KEYS, 200, seed=2)

    # Three more images displace at most three, and change each class's number by at most one.
    assert len(before - after) <= 3 + 5
    assert len(after - before) <= 3 + 5


def test_copies_of_an_image_are_next_to_each_other():
    # Each image twice: at most one pair of a class is on both sides.
    labels, keys = np.tile(LABELS, 2), np.tile(KEYS, 2)
    for seed in range(20):
        remaining, held_out = split_held_out(labels, keys, 401, seed)
        assert len(np.intersect1d(keys[remaining], keys[held_out])) <= 5


def test_files_with_the_same_images_hold_out_the_same_ones(tmp_path):
    root = write_folder(tmp_path / "images", num_classes=2, num_per_class=20)
    chosen = []
    for name, encoding, seed in (("a", Encoding(), 0), ("b", Encoding("raw", max_side=20), 1)):
        converted(root, tmp_path / name, encoding, Selection(seed=seed))
        file = open_beton(tmp_path / name)
        keys = sample_keys(file)
        chosen.append(held_out_keys(file.labels, keys, 10, seed=0))
        # The test would say nothing if the files had the same order.
        assert len(set(keys[:20].tolist())) == 20
    assert chosen[0] == chosen[1]
    first, second = (open_beton(tmp_path / name) for name in "ab")
    assert sample_keys(first).tolist() != sample_keys(second).tolist()


def test_class_without_remaining_images_is_an_error():
    labels = np.array([0] * 10 + [1])

    with pytest.raises(ValueError, match="smallest class has 1 images"):
        split_held_out(labels, KEYS[:11], 6, seed=0)
    with pytest.raises(ValueError, match="nothing to train on"):
        split_held_out(np.zeros(5, np.int64), KEYS[:5], 5, seed=0)
