"""Ray on all nodes of a Slurm job, started and stopped by one ``srun``, with a token of its own."""

import collections
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from start_node import HEAD_VARIABLE, free_ports

from service.spec.errors import BadInputError, Problem

START_NODE = Path(__file__).resolve().with_name("start_node.py")
# Ray imports from a shared disk, on many nodes at a time.
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0
SCONTROL_TIMEOUT_S = 60.0
END_TIMEOUT_S = 5.0
POLL_S = 0.2
STARTED = "Ray runtime started."
"""What ``ray start`` prints when the node has joined the cluster."""
MAX_OUTPUT_LINES = 60


class NodesError(Exception):
    """Ray did not start on all nodes, or ended; with what it printed."""


def head_address(node_name: str, num_nodes: int) -> str:
    """The IPv4 address at which Slurm reaches the first node, this one.

    Raises:
        BadInputError: Slurm does not say it, it is not this node's, or other nodes cannot reach it.
    """
    name = _node_address(node_name)
    try:
        address = socket.gethostbyname(name)
        # Ray replaces the first one by another address of the machine.
        host = "127.0.0.2" if address == "127.0.0.1" else address
        free_ports(host, 1)
    except OSError as error:
        wrong = f"is {name}, which is no address of node {node_name}: {error}"
        raise _bad_address(wrong) from error
    if num_nodes > 1 and address.startswith("127."):
        wrong = f"is {address} on node {node_name}, where the other nodes do not reach it"
        raise _bad_address(wrong)
    return host


def _node_address(node_name: str) -> str:
    """A node's NodeAddr in Slurm's configuration: an address, or a name that has one."""
    remedy = "ask the cluster's administrator; slurmctld must answer on every node"
    command = ["scontrol", "show", "node", "--oneliner", node_name]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=SCONTROL_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BadInputError(
            "Slurm", [Problem("scontrol", f"does not run: {error}", remedy)]
        ) from error
    if shown.returncode != 0:
        wrong = f"does not show node {node_name}: {shown.stderr.strip() or shown.stdout.strip()}"
        raise BadInputError("Slurm", [Problem("scontrol", wrong, remedy)])
    fields = dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)
    if "NodeAddr" not in fields:
        raise _bad_address(f"is not in what scontrol shows of node {node_name}")
    return fields["NodeAddr"]


def _bad_address(wrong: str) -> BadInputError:
    remedy = "set NodeAddr in slurm.conf, or the name in /etc/hosts, to the node's own address"
    return BadInputError("Slurm", [Problem("NodeAddr", wrong, remedy)])


class RayNodes:
    """A cluster for one Slurm job.

    The token is in the environment, which Slurm passes from process to process: neither ``ps`` of
    other users nor ``scontrol`` shows it, and nothing of it is left on a disk.
    """

    def __init__(self, host: str, num_nodes: int):
        address, self._num_nodes = f"{host}:{free_ports(host, 1)[0]}", num_nodes
        shared = {
            **os.environ,
            HEAD_VARIABLE: address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        self.environment = {**shared, "RAY_ADDRESS": address}
        self._output: collections.deque[str] = collections.deque(maxlen=MAX_OUTPUT_LINES)
        self._num_started = 0
        # All CPUs, GPUs and memory that the job has on each node; a node's end is that of all.
        self._srun = subprocess.Popen(
            [
                *("srun", f"--nodes={num_nodes}", f"--ntasks={num_nodes}", "--ntasks-per-node=1"),
                *("--overlap", "--cpu-bind=none", "--kill-on-bad-exit=1", "--unbuffered"),
                *(sys.executable, str(START_NODE)),
            ],
            env=shared,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def are_running(self) -> bool:
        """Whether no node has ended."""
        return self._srun.poll() is None

    def has_ended(self) -> bool:
        """Whether a node has ended, or does so in the next seconds."""
        try:
            self._srun.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def output(self) -> str:
        """The last lines that Ray and srun have printed, complete when they have ended."""
        if not self.are_running:
            self._reader.join()
        return "\n".join(tuple(self._output))

    def wait_until_started(self, is_stopped: Callable[[], bool]) -> bool:
        """Wait until all nodes have joined; returns whether they have, False if ``is_stopped``.

        Raises:
            NodesError: one of them has ended, or they need too long.
        """
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while self._num_started < self._num_nodes:
            if is_stopped():
                return False
            if not self.are_running:
                raise NodesError(f"Ray did not start:\n{self.output}")
            if time.monotonic() > deadline_s:
                raise NodesError(
                    f"Ray started on {self._num_started} of {self._num_nodes} nodes in "
                    f"{START_TIMEOUT_S:.0f} s:\n{self.output}"
                )
            time.sleep(POLL_S)
        return True

    def stop(self) -> None:
        """Stop Ray on all nodes, and remove its files."""
        assert self._srun.stdin is not None
        # It is the end of the tasks' input, too. A signal to srun would kill them.
        self._srun.stdin.close()
        try:
            self._srun.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._srun.terminate()
            self._srun.wait()

    def _read(self) -> None:
        assert self._srun.stdout is not None
        for line in self._srun.stdout:
            self._output.append(line.rstrip())
            self._num_started += STARTED in line
