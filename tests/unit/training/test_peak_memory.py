"""Peak memory is what a run has added, whatever was there before."""

import torch
from support.training_runs import CPU

from service.training.distributed import World
from service.training.peak_memory import PeakMemory

NUM_BYTES = 200_000_000


def filled():
    """A tensor whose pages have been written."""
    return torch.ones(NUM_BYTES, dtype=torch.uint8)


def test_peak_counts_what_was_freed_since_and_nothing_from_before():
    before = filled()
    memory = PeakMemory(World(0, 1, CPU, 1))
    assert memory.read() < NUM_BYTES / 10
    during = filled()
    del during
    assert 0.9 * NUM_BYTES < memory.read() < 1.2 * NUM_BYTES
    assert before.sum() == NUM_BYTES
    # The next run starts from what is resident then.
    assert PeakMemory(World(0, 1, CPU, 1)).read() < NUM_BYTES / 10
