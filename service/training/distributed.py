"""This worker among all workers: rank and device, DDP, and what the workers decide together."""

import ctypes
import datetime
import inspect
import os
import warnings
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

Value = TypeVar("Value")


class World(NamedTuple):
    """This worker's place among all workers.

    ``size`` is passed in and never read from the process group: when a peer fails, Ray destroys
    the group in workers that still train, and these must fail instead of counting as the only one.
    """

    rank: int
    size: int
    device: torch.device
    num_cpus: int


class StepFlags(NamedTuple):
    """What a worker noticed: a checkpoint is due, or the worker must stop."""

    is_save_due: bool = False
    must_stop: bool = False


class FlagConsensus:
    """Combines the workers' flags at each step, so that all of them act in the same step.

    A rank that receives SIGTERM, or whose clock says that a checkpoint is due, cannot act alone:
    the others would wait for it in the next collective operation. The reduction, a few bytes
    between CPUs, also bounds how long they wait for a rank that hangs: it comes before anything
    that waits for a GPU, and times out before NCCL. Every rank makes the same calls in the same
    order.
    """

    def __init__(self, world: World, timeout_s: int):
        self.group: dist.ProcessGroup | None = None
        """All workers over gloo, for what must not wait for a GPU; None where there is only one."""
        if world.size > 1:
            self.group = cpu_group(timeout_s)

    def reduce(self, flags: StepFlags) -> StepFlags:
        """The flags that any worker has set, the same on all ranks; waits for the slowest."""
        if self.group is None:
            return flags
        combined = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(combined, dist.ReduceOp.MAX, group=self.group)
        return StepFlags(*map(bool, combined.tolist()))


def cpu_group(timeout_s: float) -> dist.ProcessGroup:
    """A process group of all workers over gloo; every rank must call it."""
    timeout = datetime.timedelta(seconds=timeout_s)
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup), "every rank is in the group"
    return group


def gather_from_all(value: Value, world: World, timeout_s: float) -> list[Value]:
    """Every rank's picklable value, by rank; waits for the slowest, for at most ``timeout_s``."""
    if world.size == 1:
        return [value]
    group = cpu_group(timeout_s)
    values: list[Value] = [value] * world.size
    dist.all_gather_object(values, value, group=group)
    dist.destroy_process_group(group)
    return values


# Older releases of torch have the option under another name.
_DDP_OPTIONS = inspect.signature(DistributedDataParallel).parameters
_NO_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _DDP_OPTIONS else "broadcast_buffers": False
}


def wrap_ddp(trainee: nn.Module, world: World) -> nn.Module:
    """What is trained in DistributedDataParallel; as it is where there is only one worker.

    Buffers are not synchronized: BatchNorm's statistics are averaged by ``batchnorm``.

    The order in which three or more workers' gradients are added depends on their places in DDP's
    buckets. By default DDP assigns the buckets anew after its first backward pass, so that the
    first step after each start would add in another order than the same step of an uninterrupted
    run. It keeps the buckets of its construction, which are a function of the model alone, if it
    looks for unused parameters.
    """
    if world.size == 1:
        return trainee
    # A 1x1 kernel has the same layout in both memory formats, which DDP takes for a mismatch.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
    return DistributedDataParallel(
        trainee,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        **_NO_BUFFERS,
        gradient_as_bucket_view=True,
        find_unused_parameters=True,
    )


def prepare_process(
    device: torch.device,
    *,
    deterministic: bool = False,
    matmul_precision: Literal["highest", "high"] = "highest",
) -> None:
    """Process-wide settings for a device, before anything is computed on it.

    ``deterministic`` and ``matmul_precision``: as in the spec's section training.
    """
    if device.type != "cuda":
        keep_freed_memory()
        return
    torch.backends.cudnn.benchmark = not deterministic
    # Operations without a deterministic algorithm warn, and are used.
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # All memory is written before it is read; filling it first would take time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if deterministic:
        # What cuBLAS needs for it, and reads when it is used first.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_float32_matmul_precision(matmul_precision)
    # cuDNN's convolutions have a setting of their own, which allows TF32 by default: some logits
    # would differ from a CPU's by a thousandth, and so would a few predictions.
    torch.backends.cudnn.allow_tf32 = matmul_precision != "highest"


# Options of mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEPT_BYTES = (1 << 31) - 1
STEP_BYTES = 1 << 26
DEFAULT_MAX_MAPPINGS, DEFAULT_KEPT_BYTES = 1 << 16, 1 << 17


def keep_freed_memory() -> None:
    """Let the C allocator reuse the pages of freed tensors instead of returning them.

    By default each large tensor is mapped afresh, and clearing its pages costs more than filling
    them.
    """
    _set_allocator(max_mappings=0, kept_bytes=KEPT_BYTES, step_bytes=STEP_BYTES)


def use_default_allocation() -> None:
    """Undo ``keep_freed_memory``: the C allocator works as in any program, with its defaults."""
    _set_allocator(DEFAULT_MAX_MAPPINGS, DEFAULT_KEPT_BYTES, DEFAULT_KEPT_BYTES)


def _set_allocator(max_mappings: int, kept_bytes: int, step_bytes: int) -> None:
    mallopt = ctypes.CDLL(None).mallopt
    for option, value in (
        (M_MMAP_MAX, max_mappings),
        (M_TRIM_THRESHOLD, kept_bytes),
        (M_TOP_PAD, step_bytes),
    ):
        mallopt(option, value)


def release_freed_memory() -> None:
    """Return the pages of freed tensors to the system, whatever the C allocator keeps."""
    ctypes.CDLL(None).malloc_trim(0)
