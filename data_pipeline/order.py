"""The order of samples: a function of (seed, epoch) alone, cut into steps and then into ranks."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from data_pipeline.compiled.compilation import compiled
from data_pipeline.compiled.counter_rng import REPEAT_SHIFT, sample_key, stream_key, uniform

Indices = NDArray[np.int64]

ORDER_STREAM = 1001
INDEX_MASK = 2**48 - 1


def repeated(samples: Indices, repeats: NDArray[np.int64]) -> Indices:
    """Draws [B] of samples: each stands for one of the times that a sample occurs in an epoch.

    ``repeats`` [B] count from 0. A draw takes the sample's place in the keys of random numbers; the
    first is the sample's own index.
    """
    return samples + (repeats << REPEAT_SHIFT)


def samples_and_repeats(draws: Indices) -> tuple[Indices, NDArray[np.int64]]:
    """What ``repeated`` made the draws [B] of."""
    return draws & INDEX_MASK, draws >> REPEAT_SHIFT


def epoch_permutation(num_samples: int, seed: int, epoch: int) -> NDArray[np.int32]:
    """The order of up to 2**31 - 1 samples in an epoch, [N]; the same on every machine."""
    assert num_samples < 2**31, "indices are 32-bit"
    return shuffled(num_samples, seed, epoch)


@compiled
def shuffled(count: int, seed: int, epoch: int) -> NDArray[np.int32]:
    """A random permutation, [N], by the inside-out Fisher-Yates shuffle.

    Several times as fast as numpy's, which matters for millions of samples.
    """
    key = stream_key(sample_key(seed, epoch, 0), ORDER_STREAM)
    order = np.empty(count, np.int32)
    for index in range(count):
        other = int(uniform(key, index) * (index + 1))
        order[index] = order[other]
        order[other] = index
    return order


def num_steps_per_epoch(num_samples: int, global_batch_size: int, *, drop_last: bool) -> int:
    """Global batches in an epoch.

    With ``drop_last``, samples that do not fill a batch are dropped, different ones in each epoch;
    otherwise they form a smaller last batch.
    """
    full, left_over = divmod(num_samples, global_batch_size)
    return full + (not drop_last and left_over > 0)


def num_in_step(num_samples: int, global_batch_size: int, step: int) -> int:
    """Number of samples in a global batch: all are full except a smaller last one."""
    return min(global_batch_size, num_samples - step * global_batch_size)


def rank_slice(global_batch_size: int, micro_batch_size: int, rank: int, world_size: int) -> slice:
    """A rank's slice of a global batch: full micro-batches, as evenly distributed as possible."""
    num_micro_batches = global_batch_size // micro_batch_size
    assert num_micro_batches >= world_size, "every worker has a micro-batch"
    first, last = (
        num_micro_batches * end // world_size * micro_batch_size for end in (rank, rank + 1)
    )
    return slice(first, last)


def num_in_slice(num_in_batch: int, local: slice) -> int:
    """Number of samples in a rank's slice of a global batch; may be 0 in a smaller last batch."""
    return max(0, min(local.stop, num_in_batch) - local.start)


def train_batches(
    num_samples: int,
    global_batch_size: int,
    *,
    seed: int,
    epoch: int,
    local: slice | None = None,
    start: int = 0,
    drop_last: bool = True,
    num_repeats: int = 1,
) -> Iterator[Indices]:
    """One rank's samples [B] of each step of an epoch, from step ``start`` on.

    With ``num_repeats``, which divides the global batch, each sample of a global batch occurs so
    often in it, and they are draws (see ``repeated``). An epoch has as many images as without, of
    fewer samples: Hoffer et al., arXiv 1901.09335, as in timm's RepeatAugSampler.

    ``local``: the rank's slice of each global batch (see ``rank_slice``); all of it by default.
    Ranks have adjacent slices, so the batches of all ranks in order are the same whatever the
    number of ranks. In a smaller last batch the first ranks have full slices. A rank without
    samples gets the batch's first ones, so that it takes as many steps as the others; they must not
    count (see ``num_in_slice``).
    """
    local = local or slice(0, global_batch_size)
    order = epoch_permutation(num_samples, seed, epoch)
    num_steps = num_steps_per_epoch(num_samples, global_batch_size, drop_last=drop_last)
    for step in range(start, num_steps):
        batch = _global_batch(order, global_batch_size, step, num_repeats)
        chosen = batch[local]
        yield chosen if len(chosen) else batch[: local.stop - local.start]


def _global_batch(
    order: NDArray[np.int32], global_batch_size: int, step: int, num_repeats: int
) -> Indices:
    """All samples once, then all of them again: neighbors, which may be mixed, are different."""
    count = num_in_step(len(order), global_batch_size, step)
    num_samples = -(-count // num_repeats)
    first = step * global_batch_size // num_repeats
    samples = order[first : first + num_samples].astype(np.int64)
    repeats, places = np.divmod(np.arange(count), num_samples)
    return repeated(samples[places], repeats)


def evaluation_batches(
    num_samples: int, batch_size: int, *, rank: int, world_size: int
) -> list[Indices]:
    """One rank's batches [B] of an evaluation; over all ranks each sample occurs exactly once."""
    chosen = np.arange(rank, num_samples, world_size, dtype=np.int64)
    return [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
