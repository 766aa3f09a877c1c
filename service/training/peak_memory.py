"""The most memory that a run has used in a worker: of its GPU, or of its process."""

import re
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist

from service.training.distributed import World

PEAK_MEMORY_METRIC = "system/peak_memory_bytes"
_PROCESS = Path("/proc/self")
# Written to clear_refs, it sets the peak to what is resident now; see proc(5).
_RESET_PEAK = "5"


class PeakMemory:
    """Measures from its construction on, which is to come before a run allocates anything.

    What an earlier run in this process has left is not its business: ``reset_process`` releases it.
    """

    def __init__(self, world: World):
        self._world, self._before_bytes = world, 0
        if world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(world.device)
            return
        reset_process_peak()
        self._before_bytes = process_bytes().resident

    def read(self) -> float:
        """Bytes that the worker with the most has used; every rank must call it.

        Of a GPU, what torch has reserved. Of a process, by how much its resident memory has grown,
        the pages of mapped files included.
        """
        if self._world.device.type == "cuda":
            own = torch.cuda.max_memory_reserved(self._world.device)
        else:
            own = max(process_bytes().peak - self._before_bytes, 0)
        most = torch.tensor(own, dtype=torch.float64, device=self._world.device)
        if self._world.size > 1:
            dist.all_reduce(most, dist.ReduceOp.MAX)
        return float(most)


class ProcessBytes(NamedTuple):
    """Resident memory of this process: now, and the most since the peak was reset."""

    resident: int
    peak: int


def reset_process_peak() -> bool:
    """Set the peak to what is resident now; False where the system does not allow it."""
    try:
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def process_bytes() -> ProcessBytes:
    """The resident memory of this process, mapped files included; 0 where it is not told."""
    status = (_PROCESS / "status").read_text()
    found = (re.search(rf"^{field}:\s+(\d+) kB$", status, re.M) for field in ("VmRSS", "VmHWM"))
    return ProcessBytes(*(1024 * int(match[1]) if match is not None else 0 for match in found))
