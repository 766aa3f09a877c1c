"""The order of samples: the same for any number of workers, with every sample once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.order import (
    epoch_permutation,
    evaluation_batches,
    num_in_slice,
    num_in_step,
    num_steps_per_epoch,
    rank_slice,
    train_batches,
)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5, 8])
def test_global_steps_do_not_depend_on_the_world_size(world_size):
    per_rank = [
        list(train_batches(1000, 64, seed=1, epoch=2, local=part))
        for part in (rank_slice(64, 8, rank, world_size) for rank in range(world_size))
    ]
    order = epoch_permutation(1000, 1, 2)
    for step, shares in enumerate(zip(*per_rank, strict=True)):
        assert np.array_equal(np.concatenate(shares), order[64 * step : 64 * (step + 1)])
    assert len(per_rank[0]) == 15
    part = rank_slice(64, 8, 0, world_size)
    resumed = train_batches(1000, 64, seed=1, epoch=2, local=part, start=11)
    assert all(np.array_equal(a, b) for a, b in zip(resumed, per_rank[0][11:], strict=True))


def test_every_epoch_has_its_own_permutation():
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


@settings(max_examples=500, deadline=None)
@given(
    num_samples=st.integers(1, 3000),
    batches_of_eight=st.integers(1, 20),
    world_size=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 1000),
    start_share=st.floats(0, 1),
    drop_last=st.booleans(),
)
def test_any_world_size_and_start_give_the_same_global_batches(
    num_samples, batches_of_eight, world_size, seed, epoch, start_share, drop_last
):
    batch_size, micro_batch_size = 8 * batches_of_eight, batches_of_eight
    parts = [
        rank_slice(batch_size, micro_batch_size, rank, world_size) for rank in range(world_size)
    ]
    sizes = [part.stop - part.start for part in parts]
    assert all(size % micro_batch_size == 0 for size in sizes)
    assert max(sizes) - min(sizes) <= micro_batch_size
    num_steps = num_steps_per_epoch(num_samples, batch_size, drop_last=drop_last)
    start = int(start_share * num_steps)
    shares = [
        list(
            train_batches(
                num_samples,
                batch_size,
                seed=seed,
                epoch=epoch,
                local=part,
                start=start,
                drop_last=drop_last,
            )
        )
        for part in parts
    ]
    order = epoch_permutation(num_samples, seed, epoch)
    assert sorted(order) == list(range(num_samples))
    assert {len(local) for local in shares} == {num_steps - start}
    seen = []
    for step in range(start, num_steps):
        in_step = num_in_step(num_samples, batch_size, step)
        counted = [
            local[step - start][: num_in_slice(in_step, part)]
            for part, local in zip(parts, shares, strict=True)
        ]
        # Every worker has images to process, even if none of them counts.
        assert all(len(local[step - start]) for local in shares)
        seen.append(np.concatenate(counted))
        assert len(seen[-1]) == in_step
    expected = order[start * batch_size : None if not drop_last else num_steps * batch_size]
    assert np.array_equal(np.concatenate([[], *seen]), expected)


@settings(max_examples=200, deadline=None)
@given(num_samples=st.integers(0, 500), batch_size=st.integers(1, 64), world_size=st.integers(1, 9))
def test_evaluation_is_a_partition(num_samples, batch_size, world_size):
    batches = [
        batch
        for rank in range(world_size)
        for batch in evaluation_batches(num_samples, batch_size, rank=rank, world_size=world_size)
    ]
    assert all(0 < len(batch) <= batch_size for batch in batches)
    assert sorted(np.concatenate([[], *batches])) == list(range(num_samples))


def test_all_orders_of_few_samples_are_equally_likely():
    counts = {}
    for epoch in range(6000):
        order = tuple(epoch_permutation(3, 7, epoch))
        counts[order] = counts.get(order, 0) + 1
    # Chi-squared with 5 degrees of freedom: 20.5 is its 0.999 quantile.
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 20.5
    assert len(counts) == 6


def test_order_of_an_epoch_is_that_of_every_release():
    """Known answers: a run that is resumed with another release continues with the same order."""
    assert epoch_permutation(10, 3, 2).tolist() == [0, 3, 5, 2, 6, 4, 9, 7, 8, 1]
    assert epoch_permutation(10, 4, 2).tolist() == [2, 6, 3, 8, 1, 5, 9, 4, 7, 0]
    assert epoch_permutation(10, 3, 3).tolist() == [0, 2, 5, 6, 9, 1, 7, 4, 3, 8]


def test_rank_without_samples_gets_as_many_as_its_slice():
    """Of 10 samples in batches of 8, the second rank's slice of the last batch is empty."""
    batches = list(train_batches(10, 8, seed=1, epoch=0, local=slice(4, 8), drop_last=False))
    order = epoch_permutation(10, 1, 0)
    assert batches[0].tolist() == order[4:8].tolist()
    assert batches[1].tolist() == order[8:10].tolist()
    batches = list(train_batches(13, 8, seed=1, epoch=0, local=slice(6, 8), drop_last=False))
    assert batches[1].tolist() == epoch_permutation(13, 1, 0)[8:10].tolist()
