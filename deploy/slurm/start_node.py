"""Runs Ray on one node of a Slurm job until its standard input ends: a task of ``ray_nodes``.

Several jobs may share a node: each has its own ports, and a folder of its own for Ray's files.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from node_folder import node_folder
from processes import end

HEAD_VARIABLE = "DTKD_RAY_HEAD"
"""HOST:PORT of Ray's control service, on the first node."""
HEAD_PORT_NAMES = ("dashboard-port", "ray-client-server-port")
NODE_PORT_NAMES = ("dashboard-agent-listen-port",)
# The service keeps specs in it, and no more. Ray's default is a share of the node's memory, of
# which the job may have little.
OBJECT_STORE_BYTES = 200_000_000
STOP_TIMEOUT_S = 15.0
POLL_S = 0.5


def ray_start_command(
    environment: Mapping[str, str], own_address: str, folder: Path, ports: Sequence[int]
) -> list[str]:
    """``ray start`` for this node; the first one has Ray's control service and dashboard.

    ``ports``: free here, one for each of ``port_names``.
    """
    head_host, _, head_port = environment[HEAD_VARIABLE].rpartition(":")
    names = port_names(environment)
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--block"),
        f"--node-ip-address={own_address}",
        f"--num-cpus={environment['SLURM_CPUS_ON_NODE']}",
        f"--num-gpus={environment.get('SLURM_GPUS_ON_NODE') or 0}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--temp-dir={folder}",
        # Workers take ports that are free. By default all of a node's Rays use the same range.
        *("--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"),
        *(f"--{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]
    if is_head(environment):
        return [*command, "--head", f"--port={head_port}", f"--dashboard-host={head_host}"]
    return [*command, f"--address={head_host}:{head_port}"]


def is_head(environment: Mapping[str, str]) -> bool:
    """Whether this is the first node."""
    return environment["SLURM_NODEID"] == "0"


def port_names(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Options of ``ray start`` that need a port of this job's own."""
    return (*NODE_PORT_NAMES, *(HEAD_PORT_NAMES if is_head(environment) else ()))


def free_ports(host: str, count: int) -> list[int]:
    """Ports of this machine that nothing uses now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((host, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def address_towards(host: str, port: int) -> str:
    """This machine's address that the way to ``host`` begins at; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        address: str = probe.getsockname()[0]
        return address


def main() -> int:
    """Run Ray here until standard input ends, or SIGTERM arrives; returns the exit status."""
    is_stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_stopped.set())
    threading.Thread(target=_read_to_end, args=(is_stopped,), daemon=True).start()
    head_host, _, head_port = os.environ[HEAD_VARIABLE].rpartition(":")
    own_address = head_host if is_head(os.environ) else address_towards(head_host, int(head_port))
    ports = free_ports(own_address, len(port_names(os.environ)))
    with node_folder() as folder:
        # Ray lets everybody write to its folder; to the one around it nobody else has access.
        command = ray_start_command(os.environ, own_address, folder / "ray", ports)
        ray = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        while ray.poll() is None and not is_stopped.wait(POLL_S):
            pass
        if not is_stopped.is_set():
            return ray.returncode or 1
        end(ray, STOP_TIMEOUT_S)
    return 0


def _read_to_end(is_stopped: threading.Event) -> None:
    sys.stdin.buffer.read()
    is_stopped.set()


if __name__ == "__main__":
    sys.exit(main())
