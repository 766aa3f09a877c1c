"""How Ray Train prepares the worker processes: their signals, and torch's process group.

It takes the place of Ray's TorchConfig, whose module imports torch: the process that watches the
workers is started before them, and would do so too, for more than a second. Nor does this module
import the spec's, for the same reason.
"""

import datetime
import os
import socket
from dataclasses import dataclass
from typing import Any, NamedTuple

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
            listener = worker_group.execute_single(0, open_listener)
            options = (listener, backend_config.backend, backend_config.timeout_s)
            worker_group.execute(join_process_group, *options)


def prepare_worker() -> None:
    """Settings that the process needs before it imports torch."""
    choose_interface()
    install_sigterm_handler()


class Listener(NamedTuple):
    """A socket that is bound to a node's address; ``descriptor`` is valid in rank 0's process."""

    address: str
    port: int
    descriptor: int


def open_listener() -> Listener:
    """Bind a socket for the process group's store to this node's address, at a port that is free.

    Left alone, the store listens on every address of the machine, without authentication.
    """
    address = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family)
    bound.bind((address, 0))
    return Listener(address, bound.getsockname()[1], bound.detach())


def join_process_group(listener: Listener, backend: str, timeout_s: int) -> None:
    """Join the process group, whose rank 0 listens there; waits for all ranks.

    The variables are those that torchrun sets; NCCL's is Ray's choice, which ends a process whose
    collective operation has failed.
    """
    # Imported here: the process that watches the workers refers to this function.
    with quick_imports():
        import torch.distributed as dist

    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    os.environ |= {
        "MASTER_ADDR": listener.address,
        "MASTER_PORT": str(listener.port),
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
    }
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    timeout = datetime.timedelta(seconds=timeout_s)
    store = dist.TCPStore(  # type: ignore[attr-defined]  # it is public
        listener.address,
        listener.port,
        world_size,
        is_master=rank == 0,
        timeout=timeout,
        master_listen_fd=listener.descriptor if rank == 0 else None,
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
