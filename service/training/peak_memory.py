"""The most memory that a worker has used: of its GPU, or of its process."""

import contextlib
import ctypes
import gc
import re
from pathlib import Path

import torch
import torch.distributed as dist

from service.training.distributed import World

PEAK_MEMORY_METRIC = "system/peak_memory_bytes"
_PROCESS = Path("/proc/self")
# Written to clear_refs, it sets the peak to what is resident now; see proc(5).
_RESET_PEAK = "5"


def reset_peak_memory(device: torch.device) -> None:
    """Start to measure; memory that an earlier run in this process has freed does not count."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    # ``keep_freed_memory`` makes the allocator keep it.
    ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)


def peak_memory_bytes(world: World) -> float:
    """Of the worker with the most: GPU memory reserved by torch, or resident memory of the process,
    shared libraries and the pages of mapped files included. Every rank must call it.
    """
    if world.device.type == "cuda":
        own = float(torch.cuda.max_memory_reserved(world.device))
    else:
        status = (_PROCESS / "status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        own = 1024.0 * int(found[1]) if found is not None else 0.0
    most = torch.tensor(own, dtype=torch.float64, device=world.device)
    if world.size > 1:
        dist.all_reduce(most, dist.ReduceOp.MAX)
    return float(most)
