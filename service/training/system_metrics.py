"""What a run uses of its nodes between two progress lines, in the group system.

MLflow's UI shows this group on a page of its own. With several nodes their number is in the names,
such as system/1/cpu_utilization_percentage, as MLflow has it.
"""

import math
import socket
import threading
import time

import torch
import torch.distributed as dist

from service.run.polling import PollingThread
from service.training.distributed import World, gather_from_all
from service.training.node_usage import NodeUsage

GROUP = "system"
SAMPLE_INTERVAL_S = 2.0
NUM_DIGITS = 1
# Figures that only grow start with it.
COUNTERS = "network_"


class SystemMetrics:
    """Samples the node on a thread until closed; one worker of each node does.

    All ranks make the same calls. ``group``: all workers, between CPUs; None where there is one.
    """

    def __init__(self, world: World, group: dist.ProcessGroup | None, timeout_s: float):
        self._group, self._lock = group, threading.Lock()
        usage = NodeUsage(has_gpus=world.device.type == "cuda")
        self._last = usage.read()
        nodes = _by_node(
            gather_from_all((socket.gethostname(), list(self._last)), world, timeout_s)
        )
        self._names = [
            f"{GROUP}/{name}" if len(nodes) == 1 else f"{GROUP}/{number}/{name}"
            for number, names in enumerate(nodes.values())
            for name in names
        ]
        self._is_shared = len(nodes) > 1
        self._own_start = sum(len(names) for rank, names in nodes.items() if rank < world.rank)
        self._sums, self._num_samples = dict.fromkeys(self._last, 0.0), 0
        self._usage: NodeUsage | None = None
        if world.rank in nodes:
            self._usage, self._next_s = usage, time.monotonic() + SAMPLE_INTERVAL_S
            self._thread = PollingThread("system-metrics", SAMPLE_INTERVAL_S, self._sample_if_due)
        else:
            usage.close()

    def read(self) -> dict[str, float]:
        """The figures since the last call, by name; those of all nodes on rank 0.

        Means of the samples, and of what the network has carried the last one. The share of the
        CPUs is missing in an interval that is too short for a sample of it.
        """
        values = torch.zeros(len(self._names), dtype=torch.float64)
        if self._usage is not None:
            own = torch.tensor(self._take_figures(self._usage), dtype=torch.float64)
            values[self._own_start : self._own_start + len(own)] = own
        if self._is_shared:
            dist.all_reduce(values, group=self._group)
        figures = zip(self._names, values.tolist(), strict=True)
        return {name: round(v, NUM_DIGITS) for name, v in figures if math.isfinite(v)}

    def close(self) -> None:
        """End the thread."""
        if self._usage is not None:
            self._thread.close()
            self._usage.close()

    def _sample_if_due(self) -> None:
        # Not at once: the share of the CPUs needs time to pass.
        if self._usage is not None and time.monotonic() >= self._next_s:
            with self._lock:
                self._sample(self._usage)

    def _sample(self, usage: NodeUsage) -> None:
        figures = usage.read()
        # A figure that a GPU does not answer for is missing in this interval.
        self._last = {name: figures.get(name, math.nan) for name in self._last}
        self._num_samples += 1
        for name, value in self._last.items():
            self._sums[name] += value

    def _take_figures(self, usage: NodeUsage) -> list[float]:
        with self._lock:
            if not self._num_samples:
                self._sample(usage)
            figures = {name: total / self._num_samples for name, total in self._sums.items()}
            figures |= {name: v for name, v in self._last.items() if name.startswith(COUNTERS)}
            self._sums, self._num_samples = dict.fromkeys(self._last, 0.0), 0
            return list(figures.values())


def _by_node(found: list[tuple[str, list[str]]]) -> dict[int, list[str]]:
    """Names of the figures of each node, by the first rank on it; ``found``: host and names."""
    hosts = [host for host, _ in found]
    return {rank: names for rank, (host, names) in enumerate(found) if hosts.index(host) == rank}
