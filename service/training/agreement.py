"""What any worker noticed, known to all of them at the end of the same step.

A rank that is told to end, or whose clock says that it is time to save, cannot act alone: the
others would wait for it in the next collective operation. The exchange, a few bytes between CPUs,
runs beside the step and is waited for at its end.
"""

import datetime
from typing import NamedTuple

import torch
import torch.distributed as dist

from service.training.world import World


class Findings(NamedTuple):
    """What a worker noticed: time to save, a reason to leave."""

    is_time_to_save: bool = False
    must_leave: bool = False


class Agreement:
    """Takes the workers' findings together; every rank makes the same calls in the same order."""

    def __init__(self, world: World, timeout_s: int):
        self._group: dist.ProcessGroup | None = None
        self._work: dist.Work | None = None
        if world.size > 1:
            # Of its own, between CPUs: it must not wait behind gradients, nor for a GPU.
            timeout = datetime.timedelta(seconds=timeout_s)
            group = dist.new_group(backend="gloo", timeout=timeout)
            assert isinstance(group, dist.ProcessGroup), "every rank is in the group"
            self._group = group

    def begin(self, mine: Findings) -> None:
        """Tell the other workers, while there is something else to do."""
        self._found = torch.tensor(mine, dtype=torch.int32)
        if self._group is not None:
            self._work = dist.all_reduce(
                self._found, dist.ReduceOp.MAX, group=self._group, async_op=True
            )

    def end(self) -> Findings:
        """What any of them told, the same on all."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return Findings(*map(bool, self._found.tolist()))

    def reach(self, mine: Findings) -> Findings:
        """Both at once, where there is nothing else to do."""
        self.begin(mine)
        return self.end()
