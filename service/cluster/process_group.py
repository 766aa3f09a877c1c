"""How Ray Train prepares the worker processes: their signals, and torch's process group.

It takes the place of Ray's TorchConfig, whose module imports torch: the process that watches the
workers is started before them, and would do so too, for more than a second. Nor does this module
import the spec's, for the same reason.
"""

import datetime
import os
import socket
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig

from service.cluster.network import choose_interface
from service.cluster.sigterm import install_sigterm_handler
from service.run.imports import quick_imports


@dataclass
class ProcessGroupConfig(BackendConfig):  # type: ignore[misc]
    """``backend``: torch's, "nccl" or "gloo"; ``timeout_s``: of its collective operations."""

    backend: str
    timeout_s: int

    @property
    def backend_cls(self) -> type["ProcessGroupBackend"]:
        """The backend that Ray instantiates."""
        return ProcessGroupBackend


class ProcessGroupBackend(Backend):  # type: ignore[misc]
    """Prepares each worker process and joins them in torch's default process group."""

    # Workers of a node see each other's GPUs, by which NCCL copies between them directly.
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:  # noqa: ANN401 - Ray's
        """Called by Ray when all worker processes have started."""
        worker_group.execute(prepare_worker)
        if len(worker_group) > 1:
            address, port = worker_group.execute_single(0, free_address)
            options = (address, port, backend_config.backend, backend_config.timeout_s)
            worker_group.execute(join_process_group, *options)


def prepare_worker() -> None:
    """Settings that the process needs before it imports torch."""
    choose_interface()
    install_sigterm_handler()


def free_address() -> tuple[str, int]:
    """This node's address, and a port that is free now."""
    address = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listening:
        listening.bind(("", 0))
        return address, listening.getsockname()[1]


def join_process_group(address: str, port: int, backend: str, timeout_s: int) -> None:
    """Join the process group, whose rank 0 listens there; waits for all ranks.

    The variables are those that torchrun sets; NCCL's is Ray's choice, which ends a process whose
    collective operation has failed.
    """
    # Imported here: the process that watches the workers refers to this function.
    with quick_imports():
        import torch.distributed as dist

    context = ray.train.get_context()
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
    }
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout_s))
