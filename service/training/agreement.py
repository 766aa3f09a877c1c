"""What any worker noticed in a step, known to all of them before they act on it.

A few bytes between CPUs per step: a rank that meets a loss that is not finite, a signal to end or
its time to save cannot act alone, or the others would wait for it in the next collective operation.
"""

import datetime
from typing import NamedTuple

import torch
import torch.distributed as dist

from service.training.data import World


class Findings(NamedTuple):
    """What a worker noticed: a step that must not count, time to save, a reason to leave."""

    is_nonfinite: bool = False
    is_time_to_save: bool = False
    must_leave: bool = False


class Agreement:
    """Takes the workers' findings together; every rank makes the same calls in the same order."""

    def __init__(self, world: World, timeout_s: int):
        self._group: dist.ProcessGroup | None = None
        if world.size > 1:
            # Of its own, between CPUs: it must not wait behind gradients, nor for a GPU.
            timeout = datetime.timedelta(seconds=timeout_s)
            group = dist.new_group(backend="gloo", timeout=timeout)
            assert isinstance(group, dist.ProcessGroup), "every rank is in the group"
            self._group = group

    def reach(self, mine: Findings) -> Findings:
        """What any of them noticed, the same on all."""
        if self._group is None:
            return mine
        found = torch.tensor(mine, dtype=torch.int32)
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self._group)
        return Findings(*map(bool, found.tolist()))
