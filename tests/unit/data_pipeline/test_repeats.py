"""Repeated augmentation: which samples are repeated, where, and with which pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.loading_helpers import CROP, EVERY_AUGMENTATION
from timm.data.distributed_sampler import RepeatAugSampler

from data_pipeline.augmentation.samples import Augmentations
from data_pipeline.loader import ImageLoader
from data_pipeline.order import (
    epoch_permutation,
    num_in_slice,
    num_in_step,
    rank_slice,
    repeated,
    samples_and_repeats,
    train_batches,
)


def test_an_epoch_has_the_samples_of_timms_sampler():
    """768 images, of which a third is drawn three times; with 2 workers and batches of 24 each."""
    draws = np.concatenate(list(train_batches(768, 48, seed=1, epoch=2, num_repeats=3)))
    samples, repeats = samples_and_repeats(draws)
    found = np.unique(samples, return_counts=True)
    samplers = [RepeatAugSampler(range(768), num_replicas=2, rank=rank) for rank in range(2)]
    theirs = np.concatenate([list(sampler) for sampler in samplers])
    expected = np.unique(theirs, return_counts=True)
    assert len(draws) == len(theirs) == 768
    assert len(found[0]) == len(expected[0]) == 256
    assert set(found[1]) == set(expected[1]) == {3}
    # The samples of the order without repeats, as far as they are reached.
    assert found[0].tolist() == sorted(epoch_permutation(768, 1, 2)[:256])
    assert np.unique(draws).size == 768
    assert set(repeats) == {0, 1, 2}


def test_a_global_batch_has_each_of_its_samples_equally_often():
    for draws in train_batches(100, 12, seed=1, epoch=0, num_repeats=3):
        samples, repeats = samples_and_repeats(draws)
        assert samples.reshape(3, 4).tolist() == [samples[:4].tolist()] * 3
        assert repeats.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        # Mixing pairs neighbors.
        assert (samples[::2] != samples[1::2]).all()


@settings(max_examples=200, deadline=None)
@given(
    num_samples=st.integers(24, 200),
    num_repeats=st.sampled_from([1, 2, 3, 4, 6, 12]),
    world_size=st.integers(1, 6),
    start=st.integers(0, 3),
    drop_last=st.booleans(),
)
def test_workers_and_a_resumed_epoch_have_the_same_draws(
    num_samples, num_repeats, world_size, start, drop_last
):
    options = {"seed": 3, "epoch": 1, "num_repeats": num_repeats, "drop_last": drop_last}
    whole = list(train_batches(num_samples, 24, **options))
    assert sum(map(len, whole)) == num_samples - (num_samples % 24 if drop_last else 0)
    parts = [rank_slice(24, 4, rank, world_size) for rank in range(world_size)]
    shares = [
        list(train_batches(num_samples, 24, local=part, start=start, **options)) for part in parts
    ]
    for step, expected in enumerate(whole[start:], start):
        in_step = num_in_step(num_samples, 24, step)
        counted = [
            share[step - start][: num_in_slice(in_step, part)]
            for share, part in zip(shares, parts, strict=True)
        ]
        assert np.concatenate(counted).tolist() == expected.tolist()


def pixels(file, draws, strong=None, num_threads=2, **options):
    with ImageLoader(file, seed=5, num_threads=num_threads, **options) as loader:
        batches = loader.batches([draws], CROP, 3, augmentations=EVERY_AUGMENTATION, strong=strong)
        return next(iter(batches))


@pytest.mark.parametrize("strong", [None, Augmentations()])
def test_each_repeat_has_pixels_of_its_own(jpeg_file, strong):
    """They depend on seed, epoch, sample and repeat: not on the batch."""
    samples = np.array([3, 7, 3, 7, 3, 7])
    draws = repeated(samples, np.array([0, 0, 1, 1, 2, 2]))
    batch = pixels(jpeg_file, draws, strong)
    assert batch.indices.tolist() == samples.tolist()
    assert batch.labels.tolist() == jpeg_file.labels[samples].tolist()
    names = ("images",) if strong is None else ("images", "strong_images")
    plain = pixels(jpeg_file, np.array([3, 7]), strong)
    alone = pixels(jpeg_file, draws[[5, 2]], strong, num_threads=1)
    for name in names:
        images = getattr(batch, name)
        assert torch.equal(images[:2], getattr(plain, name))
        assert torch.equal(images[[5, 2]], getattr(alone, name))
        different = {image.numpy().tobytes() for image in images}
        assert len(different) == 6


def test_repeats_of_an_undecodable_sample_are_those_of_one_substitute(jpeg_file):
    draws = repeated(np.array([5, 5]), np.array([0, 1]))
    with jpeg_file.path.open("r+b") as stream:
        stream.seek(int(jpeg_file.samples["image"]["data_ptr"][5]))
        stream.write(bytes(int(jpeg_file.data_sizes[5])))
    batch = pixels(jpeg_file, draws, max_undecodable=1)
    first, second = batch.indices.tolist()
    assert first == second != 5
    expected = pixels(jpeg_file, repeated(batch.indices, np.array([0, 1])))
    assert torch.equal(batch.images, expected.images)
    assert not torch.equal(batch.images[0], batch.images[1])
