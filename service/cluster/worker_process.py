"""What runs in a worker process: its preparation, its signals and the call of the training loop."""

import contextlib
import ctypes
import gc
import os
import signal
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.train.constants import TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S
from ray.train.torch import TorchConfig, get_device

from service.cluster.crashes import record_crash
from service.cluster.network import choose_interface
from service.cluster.ray_internals import TorchBackend, is_preemption_announced
from service.spec.job import JobSpec

_received_signals: list[int] = []


def train_on_worker(config: dict[str, Any]) -> None:
    """What Ray Train calls in every worker process.

    Nothing is reported to Ray: metrics and checkpoints are the run's own, and Ray would block the
    workers at each report until its controller polls.
    """
    # Imported here: the driver refers to this function without importing the training code.
    from service.training.distributed import World, prepare_process
    from service.training.trainer import train

    spec = JobSpec.model_validate_json(config["spec"])
    context = ray.train.get_context()
    device = get_device()
    prepare_process(device)
    world = World(
        context.get_world_rank(),
        context.get_world_size(),
        device,
        spec.resources.cpus_per_worker,
    )
    with record_crash(spec.run_path, world.rank):
        train(spec, world, notice=stop_notice)


def install_sigterm_handler() -> None:
    """Take SIGTERM as a notice to stop; must run in the process's main thread."""
    signal.signal(signal.SIGTERM, lambda number, _: _received_signals.append(number))


def stop_notice() -> str | None:
    """Why this worker must stop soon, or None: SIGTERM, or its node is being drained."""
    if _received_signals:
        return "a worker received SIGTERM"
    return "a node is being drained" if is_preemption_announced() else None


def reset_process() -> None:
    """Release what an earlier run left in a worker process that is reused."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    # An error that ended it refers to its models and batches in a cycle.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    # The allocator keeps freed memory (see training.distributed); the next run may need less.
    ctypes.CDLL(None).malloc_trim(0)


class _ServiceBackend(TorchBackend):  # type: ignore[misc]
    """Ray's torch backend, with each worker process prepared before it."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:  # noqa: ANN401 - Ray's
        worker_group.execute(reset_process)
        worker_group.execute(choose_interface)
        worker_group.execute(install_sigterm_handler)
        super().on_start(worker_group, backend_config)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:  # noqa: ANN401 - Ray's
        # A hanging worker does not answer; Ray reads this in the controller's process.
        os.environ.setdefault(TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S, "5")
        # Ray expects some of the ways in which a worker can be dead, but not out of memory.
        with contextlib.suppress(ray.exceptions.RayError):
            super().on_shutdown(worker_group, backend_config)


@dataclass
class ServiceTorchConfig(TorchConfig):  # type: ignore[misc]
    """TorchConfig with this service's preparation of worker processes."""

    @property
    def backend_cls(self) -> type[_ServiceBackend]:
        """The backend that Ray instantiates."""
        return _ServiceBackend
