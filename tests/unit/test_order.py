"""The order of samples: the same for every number of workers, each sample in its turn."""

import numpy as np
import pytest

from data_pipeline.order import epoch_permutation, evaluation_batches, train_batches


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_a_global_step_has_the_same_samples_in_every_world(world_size):
    per_rank = [
        list(train_batches(1000, 64, seed=1, epoch=2, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    order = epoch_permutation(1000, 1, 2)
    for step, shares in enumerate(zip(*per_rank, strict=True)):
        assert np.array_equal(np.concatenate(shares), order[64 * step : 64 * (step + 1)])
    assert len(per_rank[0]) == 15
    resumed = train_batches(1000, 64, seed=1, epoch=2, rank=0, world_size=world_size, start=11)
    assert all(np.array_equal(a, b) for a, b in zip(resumed, per_rank[0][11:], strict=True))


def test_epochs_are_permutations_of_their_own():
    first, second = epoch_permutation(500, 0, 0), epoch_permutation(500, 0, 1)
    assert sorted(first) == list(range(500))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, epoch_permutation(500, 1, 0))


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_evaluation_covers_every_sample_once(world_size):
    seen = [
        index
        for rank in range(world_size)
        for batch in evaluation_batches(101, 7, rank=rank, world_size=world_size)
        for index in batch
    ]
    assert sorted(seen) == list(range(101))
