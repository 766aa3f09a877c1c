"""The network interface that gradients travel over: the one that carries the Ray node's address.

Left alone, gloo binds to whatever the host name resolves to, often 127.0.0.1, and several hosts
cannot connect.
"""

import contextlib
import ipaddress
import os
import socket
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray.train.constants import TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from service.cluster.kept_workers import forget_last_run
from service.cluster.signals import listen_for_sigterm

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def interface_of(address: str) -> str | None:
    """Name of the interface with this IP address on this machine, None if there is none."""
    wanted = ipaddress.ip_address(address)
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            found = ipaddress.ip_address(entry.address.split("%")[0])
            # All of 127.0.0.0/8 is the loopback interface's, though it lists one address.
            if found == wanted or (found.is_loopback and wanted.is_loopback):
                return name
    return None


def choose_interface() -> None:
    """Point gloo and NCCL at the Ray node's interface, unless the environment already does."""
    name = interface_of(ray.util.get_node_ip_address())
    for variable in INTERFACE_VARIABLES:
        if name is not None and variable not in os.environ:
            os.environ[variable] = name


class _InterfaceBackend(_TorchBackend):  # type: ignore[misc]
    """Ray's torch backend, after each worker has chosen its interface and learned to listen."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:  # noqa: ANN401 - Ray's
        worker_group.execute(forget_last_run)
        worker_group.execute(choose_interface)
        worker_group.execute(listen_for_sigterm)
        super().on_start(worker_group, backend_config)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:  # noqa: ANN401 - Ray's
        # A worker that hangs takes no leave; read by Ray in this process, the controller's.
        os.environ.setdefault(TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S, "5")
        # Ray expects some of the ways in which a worker can be dead, not that it ran out of memory.
        with contextlib.suppress(ray.exceptions.RayError):
            super().on_shutdown(worker_group, backend_config)


@dataclass
class InterfaceTorchConfig(TorchConfig):  # type: ignore[misc]
    """TorchConfig whose process group uses the Ray node's interface."""

    @property
    def backend_cls(self) -> type[_InterfaceBackend]:
        """The backend that Ray instantiates."""
        return _InterfaceBackend
