"""What the node of this process uses at the moment, under the names that MLflow gives it.

The names and units are those of mlflow.system_metrics, whose page of its UI shows them. GPUs need
the package nvidia-ml-py; without it, or without GPUs, the others remain.
"""

import contextlib
import importlib
import math
import time
from typing import Any

import psutil

MEGABYTE = 1e6
MILLIWATTS_PER_WATT = 1000
# Of the CPUs' share.
MIN_SPAN_S = 1.0


class NodeUsage:
    """Measures a node; ``has_gpus``: whether its GPUs too."""

    def __init__(self, *, has_gpus: bool):
        self._nvml = _open_nvml() if has_gpus else None
        self._received_bytes, self._sent_bytes = _network_bytes()
        # The first call only starts the clock.
        psutil.cpu_percent()
        self._cpu_read_s = time.monotonic()

    def read(self) -> dict[str, float]:
        """Figures by name; those that a GPU does not have are left out.

        The share of the CPUs is that since it was read before, NaN until ``MIN_SPAN_S`` later;
        megabytes of the network are counted from the start of this object.
        """
        memory = psutil.virtual_memory()
        received_bytes, sent_bytes = _network_bytes()
        figures = {
            "cpu_utilization_percentage": self._cpu_percentage(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "network_receive_megabytes": (received_bytes - self._received_bytes) / MEGABYTE,
            "network_transmit_megabytes": (sent_bytes - self._sent_bytes) / MEGABYTE,
        }
        if self._nvml is not None:
            # A GPU that is lost ends the training by itself, and says why.
            with contextlib.suppress(self._nvml.NVMLError):
                for index in range(self._nvml.nvmlDeviceGetCount()):
                    figures |= _gpu_figures(self._nvml, index)
        return figures

    def _cpu_percentage(self) -> float:
        now_s = time.monotonic()
        if now_s - self._cpu_read_s < MIN_SPAN_S:
            # Over a few ticks of the kernel's clock it would be noise.
            return math.nan
        self._cpu_read_s = now_s
        return psutil.cpu_percent()

    def close(self) -> None:
        """Release NVIDIA's library."""
        if self._nvml is not None:
            self._nvml.nvmlShutdown()


def _network_bytes() -> tuple[int, int]:
    """Bytes received and sent since the node was started; 0 where it has no network."""
    counts = psutil.net_io_counters()
    return (0, 0) if counts is None else (counts.bytes_recv, counts.bytes_sent)


def _open_nvml() -> Any:  # noqa: ANN401 - a module
    """NVIDIA's library, initialized; None where it is not there."""
    with contextlib.suppress(ImportError):
        nvml = importlib.import_module("pynvml")
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlInit()
            return nvml
    return None


def _gpu_figures(nvml: Any, index: int) -> dict[str, float]:  # noqa: ANN401 - a module
    """Figures of a GPU of the node, by its index in NVIDIA's order."""
    gpu, figures = nvml.nvmlDeviceGetHandleByIndex(index), {}
    # Parts of a GPU (MIG) have no utilization of their own, and virtual ones no power.
    with contextlib.suppress(nvml.NVMLError):
        memory = nvml.nvmlDeviceGetMemoryInfo(gpu)
        figures["memory_usage_megabytes"] = memory.used / MEGABYTE
        figures["memory_usage_percentage"] = 100 * memory.used / memory.total
    with contextlib.suppress(nvml.NVMLError):
        figures["utilization_percentage"] = nvml.nvmlDeviceGetUtilizationRates(gpu).gpu
    with contextlib.suppress(nvml.NVMLError):
        figures["power_usage_watts"] = nvml.nvmlDeviceGetPowerUsage(gpu) / MILLIWATTS_PER_WATT
    return {f"gpu_{index}_{name}": float(value) for name, value in figures.items()}
