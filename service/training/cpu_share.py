"""How the threads of a worker share the CPUs that are reserved for it."""

import os
from pathlib import Path
from typing import NamedTuple

import torch

PCI_DEVICES = Path("/sys/bus/pci/devices")
# For the threads that launch a GPU's work: Python's, and that of the backward pass.
NUM_LAUNCHING = 2


class CpuShare(NamedTuple):
    """``num_compute``: threads of an operation of torch. ``num_decode``: those that decode images.

    ``decode_cpus``: numbers of the CPUs for these; None: any of the process.
    """

    num_compute: int
    num_decode: int
    decode_cpus: frozenset[int] | None = None


def share_cpus(device: torch.device, num_cpus: int) -> CpuShare:
    """How a worker with ``num_cpus`` CPUs for a device uses them.

    On CPUs both get all of them: decoding threads have a lower priority, so they take what the
    computation leaves. A GPU is fed by two threads, which must not wait for a CPU; all others
    decode, near the GPU's memory controller.
    """
    if device.type != "cuda":
        return CpuShare(num_cpus, num_cpus)
    num_decode = max(1, num_cpus - NUM_LAUNCHING)
    allowed = frozenset(os.sched_getaffinity(0))
    cpus = cpus_near(_pci_address(device), allowed, PCI_DEVICES)
    return CpuShare(max(1, num_cpus - num_decode), num_decode, cpus)


def cpus_near(pci_address: str, allowed: frozenset[int], devices: Path) -> frozenset[int] | None:
    """CPUs of the NUMA node of a PCI device, of those that are ``allowed``.

    None where the system does not say so, or none of them is allowed. ``devices``: a folder for
    each PCI device, as in sysfs.
    """
    try:
        if int((devices / pci_address / "numa_node").read_text()) < 0:
            return None
        near = parse_cpus((devices / pci_address / "local_cpulist").read_text())
    except (OSError, ValueError):
        return None
    return near & allowed or None


def parse_cpus(text: str) -> frozenset[int]:
    """Numbers of the CPUs in a list of Linux, such as "0-3,8".

    Raises:
        ValueError: it is not such a list.
    """
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def _pci_address(device: torch.device) -> str:
    """Such as 0000:3b:00.0; where torch does not say it, that of no device."""
    properties = torch.cuda.get_device_properties(device)
    numbers = [getattr(properties, f"pci_{name}_id", None) for name in ("domain", "bus", "device")]
    if None in numbers:
        return "unknown"
    domain, bus, slot = numbers
    return f"{domain:04x}:{bus:02x}:{slot:02x}.0"
