"""What runs in a worker process: why it must stop, and the call of the training loop.

The driver, and the process that watches the workers, refer to these functions: torch and the
training code are imported by those that train.
"""

import contextlib
import gc
from typing import TYPE_CHECKING, Any

import ray
import ray.train

from service.cluster.crashes import record_crash
from service.cluster.ray_internals import draining_nodes
from service.cluster.sigterm import received_signals
from service.cluster.waiting import record_placement
from service.run.imports import quick_imports
from service.run.polling import PollingThread
from service.spec.job import JobSpec

if TYPE_CHECKING:
    import torch

    from service.training.distributed import World

DRAIN_POLL_S = 1.0


def train_on_worker(config: dict[str, Any]) -> None:
    """What Ray Train calls in every worker process.

    Nothing is reported to Ray: metrics and checkpoints are the run's own, and Ray would block the
    workers at each report until its controller polls.
    """
    spec, rank, num_workers, device = _place(config)
    train_as(spec, rank, num_workers, device)


def profile_on_worker(config: dict[str, Any]) -> None:
    """What Ray Train calls instead where the job is profiled."""
    spec, rank, num_workers, device = _place(config)
    world = prepared_world(spec, rank, num_workers, device)
    from service.training.profiling.profiler import profile_training

    with record_crash(spec.run_path, rank):
        profile_training(spec, world)


def _place(config: dict[str, Any]) -> "tuple[JobSpec, int, int, torch.device]":
    """The spec, this worker's rank, the number of workers, and the device."""
    context, spec = ray.train.get_context(), JobSpec.model_validate_json(config["spec"])
    if context.get_world_rank() == 0:
        record_placement(spec.run_path)
    device = _device(use_gpu=spec.resources.gpu)
    return spec, context.get_world_rank(), context.get_world_size(), device


def _device(*, use_gpu: bool) -> "torch.device":
    """The worker's device, which becomes CUDA's current one."""
    with quick_imports():
        import torch

    if not use_gpu:
        return torch.device("cpu")
    from ray.train.torch import get_device

    device: torch.device = get_device()
    torch.cuda.set_device(device)
    return device


def train_as(spec: JobSpec, rank: int, num_workers: int, device: "torch.device") -> None:
    """Train as one of a run's workers, in this process; see ``training.trainer.train``."""
    world = prepared_world(spec, rank, num_workers, device)
    from service.training.trainer import train

    notices = StopNotices()
    try:
        with record_crash(spec.run_path, rank):
            train(spec, world, notice=notices.read)
    finally:
        notices.close()


def prepared_world(spec: JobSpec, rank: int, num_workers: int, device: "torch.device") -> "World":
    """One of a run's workers, in this process, which is prepared for it."""
    with quick_imports():
        from service.training import trainer  # noqa: F401 - with all that it needs
        from service.training.distributed import World, prepare_process

    prepare_process(
        device,
        deterministic=spec.training.deterministic,
        matmul_precision=spec.training.matmul_precision,
    )
    return World(rank, num_workers, device, spec.resources.cpus_per_worker)


class StopNotices:
    """Why this worker must stop soon: SIGTERM, or its node is being drained."""

    def __init__(self) -> None:
        self._is_drained = False
        # A request to the cluster, which may take long; no step waits for it.
        self._thread = PollingThread("drain", DRAIN_POLL_S, self._poll)

    def read(self) -> str | None:
        """The reason, or None."""
        if received_signals:
            return "a worker received SIGTERM"
        return "a node is being drained" if self._is_drained else None

    def close(self) -> None:
        """End the thread."""
        self._thread.close()

    def _poll(self) -> None:
        self._is_drained = is_node_drained()


def is_node_drained() -> bool:
    """Whether the node of this process is being drained, as far as the cluster answers."""
    # Errors of many kinds, while the cluster's control service does not answer.
    with contextlib.suppress(Exception):
        return ray.get_runtime_context().get_node_id() in draining_nodes()
    return False


def reset_process() -> None:
    """Release what an earlier run left in this process, which trains another one next."""
    import torch

    from service.training.distributed import release_freed_memory

    received_signals.clear()
    # An error that ended it refers to its models and batches in a cycle.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    # The next run may need less.
    release_freed_memory()
