"""Which samples a step takes: a function of (seed, epoch) alone, cut by step and then by worker."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from data_pipeline.compilation import compiled
from data_pipeline.draws import sample_key, stream_key, uniform

Indices = NDArray[np.int64]


ORDER_STREAM = 1001


def epoch_permutation(num_samples: int, seed: int, epoch: int) -> NDArray[np.int32]:
    """The order of the samples in an epoch, [N]; the same on every machine."""
    assert num_samples < 2**31, "indices are 32-bit"
    return shuffled(num_samples, seed, epoch)


@compiled
def shuffled(count: int, seed: int, epoch: int) -> NDArray[np.int32]:
    """A random permutation, [N], by Fisher and Yates, from the inside out.

    Several times as fast as numpy's, which matters where there are millions of samples.
    """
    key = stream_key(sample_key(seed, epoch, 0), ORDER_STREAM)
    order = np.empty(count, np.int32)
    for place in range(count):
        other = int(uniform(key, place) * (place + 1))
        order[place] = order[other]
        order[other] = place
    return order


def num_steps_per_epoch(num_samples: int, global_batch_size: int, *, keep_last: bool) -> int:
    """Global batches in an epoch.

    With ``keep_last`` the samples that fill no batch make a smaller last one; otherwise they have
    their turn in other epochs.
    """
    full, left_over = divmod(num_samples, global_batch_size)
    return full + (keep_last and left_over > 0)


def num_in_step(num_samples: int, global_batch_size: int, step: int) -> int:
    """Samples of a global batch: all but a kept last one are full."""
    return min(global_batch_size, num_samples - step * global_batch_size)


def part_of_worker(
    global_batch_size: int, micro_batch_size: int, rank: int, world_size: int
) -> slice:
    """Places of a worker's samples in a global batch: whole micro-batches, as evenly as they go."""
    num_micro_batches = global_batch_size // micro_batch_size
    assert num_micro_batches >= world_size, "every worker has a micro-batch"
    first, last = (
        num_micro_batches * place // world_size * micro_batch_size for place in (rank, rank + 1)
    )
    return slice(first, last)


def num_of_part(num_in_batch: int, part: slice) -> int:
    """Samples of a part of a global batch; in a smaller last batch perhaps none."""
    return max(0, min(part.stop, num_in_batch) - part.start)


def train_batches(
    num_samples: int,
    global_batch_size: int,
    *,
    seed: int,
    epoch: int,
    part: slice | None = None,
    start: int = 0,
    keep_last: bool = False,
) -> Iterator[Indices]:
    """One worker's samples of each step of an epoch, from step ``start`` on.

    Workers take neighbouring parts of a global batch (see ``part_of_worker``; without one, all of
    it), so that the batches of all workers laid side by side are the same whatever their number. In
    a smaller last batch the first workers have full parts; one that has none is given the batch's
    first samples to run along with, which must not count (see ``num_of_part``).
    """
    part = part or slice(0, global_batch_size)
    order = epoch_permutation(num_samples, seed, epoch)
    num_steps = num_steps_per_epoch(num_samples, global_batch_size, keep_last=keep_last)
    for step in range(start, num_steps):
        batch = order[step * global_batch_size : (step + 1) * global_batch_size]
        mine = batch[part]
        yield (mine if len(mine) else batch[: part.stop - part.start]).astype(np.int64)


def evaluation_batches(
    num_samples: int, batch_size: int, *, rank: int, world_size: int
) -> list[Indices]:
    """One worker's samples of an evaluation; over all workers each sample comes exactly once."""
    mine = np.arange(rank, num_samples, world_size, dtype=np.int64)
    return [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
