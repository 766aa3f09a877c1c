"""Which samples a step takes: a function of (seed, epoch) alone, cut by step and then by worker."""

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def epoch_permutation(num_samples: int, seed: int, epoch: int) -> NDArray[np.int32]:
    """The order of the samples in an epoch, [N]; the same on every machine."""
    assert num_samples < 2**31, "indices are 32-bit"
    order = np.arange(num_samples, dtype=np.int32)
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, epoch]))
    generator.shuffle(order)
    return order


def num_steps_per_epoch(num_samples: int, global_batch_size: int) -> int:
    """Full global batches in an epoch; the samples left over have their turn in other epochs."""
    return num_samples // global_batch_size


def train_batches(
    num_samples: int,
    global_batch_size: int,
    *,
    seed: int,
    epoch: int,
    rank: int,
    world_size: int,
    start: int = 0,
) -> list[Indices]:
    """One worker's samples of each step of an epoch, from step ``start`` on.

    Workers take neighbouring parts of a global batch, so that the batches of all workers laid side
    by side are the same whatever their number.
    """
    order = epoch_permutation(num_samples, seed, epoch)
    num_steps = num_steps_per_epoch(num_samples, global_batch_size)
    steps = order[: num_steps * global_batch_size].reshape(num_steps, world_size, -1)
    return list(steps[start:, rank].astype(np.int64))


def evaluation_batches(
    num_samples: int, batch_size: int, *, rank: int, world_size: int
) -> list[Indices]:
    """One worker's samples of an evaluation; over all workers each sample comes exactly once."""
    mine = np.arange(rank, num_samples, world_size, dtype=np.int64)
    return [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
