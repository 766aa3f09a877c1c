"""Random numbers of the views of a sample: the first view's stay, and the second's are others."""

import numpy as np
import pytest

from data_pipeline.compiled import counter_rng
from data_pipeline.compiled.counter_rng import STRONG_VIEW, WEAK_VIEW

NUM_SAMPLES = 4000
STREAMS = (None, 1, 2, 3)
"""The crop and flip, which use the sample's key itself, RandAugment, color jitter and erasing."""
GOLDEN, MASK = 0x9E3779B97F4A7C15, 2**64 - 1


def keys(view, stream=None):
    found = [np.uint64(counter_rng.sample_key(3, 1, i, view)) for i in range(NUM_SAMPLES)]
    if stream is None:
        return found
    return [np.uint64(counter_rng.stream_key(key, stream)) for key in found]


def mixed(value):
    """splitmix64's finalizer in Python's integers."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


@pytest.mark.parametrize(
    ("sample", "key", "stream", "number"),
    [
        ((0, 0, 0), 0xFBE988335F36C931, 0xC213C59A64D9CF09, 0.6129305541874254),
        ((3, 1, 7), 0xC7AD0E7AC4FB2740, 0x497257CC6340BB4A, 0.3217588300797931),
        ((2**32 - 1, 299, 1281166), 0xDB6A2FA43AA9A78, 0x7E1AD07917E17064, 0.28604652532500274),
    ],
)
def test_numbers_of_the_first_view_are_those_of_samples_without_views(sample, key, stream, number):
    for arguments in (sample, (*sample, WEAK_VIEW)):
        found = np.uint64(counter_rng.sample_key(*arguments))
        assert found == key
        assert counter_rng.stream_key(found, 1) == stream
        assert counter_rng.uniform(found, 0) == number


def test_key_of_the_second_view_has_the_view_above_the_index():
    for seed, epoch, index in ((0, 0, 0), (3, 1, 7), (2**32 - 1, 299, 1281166)):
        key = mixed(seed + GOLDEN & MASK)
        key = mixed(key ^ (epoch + GOLDEN & MASK))
        expected = mixed(key ^ (index + (1 << 48) + GOLDEN & MASK))
        found = np.uint64(counter_rng.sample_key(seed, epoch, index, STRONG_VIEW))
        assert found == expected


def test_views_and_streams_share_no_key():
    found = [
        int(key)
        for view in (WEAK_VIEW, STRONG_VIEW)
        for stream in STREAMS
        for key in keys(view, stream)
    ]
    assert len(set(found)) == 2 * len(STREAMS) * NUM_SAMPLES


def test_numbers_of_the_views_are_independent_in_every_stream():
    numbers = [
        [counter_rng.uniform(key, counter) for key in keys(view, stream)]
        for view in (WEAK_VIEW, STRONG_VIEW)
        for stream in STREAMS
        for counter in range(3)
    ]
    # 276 pairs of independent series: a correlation's standard deviation is 0.0158.
    assert np.abs(np.corrcoef(numbers) - np.eye(len(numbers))).max() < 0.07
    # Not only numbers but their differences: the second view is no shift of the first.
    first, second = np.split(np.array(numbers), 2)
    counts, _ = np.histogram((second - first) % 1.0, bins=20, range=(0, 1))
    expected = first.size / 20
    # Chi-squared with 19 degrees of freedom: 43.8 is its 0.999 quantile.
    assert ((counts - expected) ** 2 / expected).sum() < 43.8
