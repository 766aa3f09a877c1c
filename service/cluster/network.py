"""The network interface that gradients use: the one that carries the Ray node's address.

Left alone, gloo binds to whatever the host name resolves to, often 127.0.0.1, and several hosts
cannot connect.
"""

import ipaddress
import os
import socket

import psutil
import ray

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
