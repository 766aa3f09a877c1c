"""A worker's threads share its CPUs; those that decode for a GPU run near it."""

import os
from types import SimpleNamespace

import pytest
import torch

from service.training import cpu_share
from service.training.cpu_share import CpuShare, cpus_near, parse_cpus, share_cpus

ADDRESS = "0000:3b:00.0"


@pytest.fixture
def devices(tmp_path):
    """A function that writes what sysfs says about a PCI device."""

    def write(node, cpus):
        folder = tmp_path / ADDRESS
        folder.mkdir()
        (folder / "numa_node").write_text(f"{node}\n")
        (folder / "local_cpulist").write_text(f"{cpus}\n")
        return tmp_path

    return write


def test_list_of_cpus_is_read_as_linux_writes_it():
    assert parse_cpus("0-3,8,10-11\n") == {0, 1, 2, 3, 8, 10, 11}
    with pytest.raises(ValueError, match="invalid literal"):
        parse_cpus("")


def test_cpus_near_a_device_are_those_of_its_node_that_are_allowed(devices):
    folder = devices(1, "4-7,12-15")
    assert cpus_near(ADDRESS, frozenset({0, 5, 6, 13}), folder) == {5, 6, 13}
    assert cpus_near(ADDRESS, frozenset({0, 1}), folder) is None


@pytest.mark.parametrize(("node", "cpus"), [(-1, "0-7"), ("", "0-7"), (0, ""), (0, "x")])
def test_device_without_a_known_node_has_no_cpus_near_it(devices, node, cpus):
    folder = devices(node, cpus)
    assert cpus_near(ADDRESS, frozenset({0, 1}), folder) is None
    assert cpus_near("0000:00:1f.7", frozenset({0, 1}), folder) is None


def test_device_that_torch_does_not_locate_has_no_cpus_near_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace())
    assert share_cpus(torch.device("cuda", 0), 4) == CpuShare(2, 2, None)


def test_computation_and_decoding_share_all_cpus_without_a_gpu():
    assert share_cpus(torch.device("cpu"), 6) == CpuShare(6, 6, None)


@pytest.mark.parametrize(("num_cpus", "num_decode"), [(1, 1), (2, 1), (3, 1), (8, 6)])
def test_two_cpus_launch_the_work_of_a_gpu_and_the_others_decode(
    monkeypatch, devices, num_cpus, num_decode
):
    monkeypatch.setattr(cpu_share, "_pci_address", lambda _: ADDRESS)
    here = os.sched_getaffinity(0)
    monkeypatch.setattr(cpu_share, "PCI_DEVICES", devices(0, ",".join(map(str, here))))
    share = share_cpus(torch.device("cuda", 0), num_cpus)
    assert share.num_decode == num_decode
    assert share.num_compute == max(1, num_cpus - num_decode)
    assert share.decode_cpus == here
