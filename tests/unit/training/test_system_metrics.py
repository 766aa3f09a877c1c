"""System metrics: MLflow's names and units, means over samples, one worker a node."""

import json
import math
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
import torch.distributed as dist
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
from support.training_runs import run_ranks

from service.training import system_metrics as module
from service.training.distributed import World
from service.training.node_usage import MIN_SPAN_S, NodeUsage
from service.training.system_metrics import SystemMetrics

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU, 1)


class NvmlError(Exception):
    """What NVIDIA's library raises."""


def fake_nvml(num_gpus=2, has_power=True):
    """NVIDIA's library with GPUs that are used to a known extent."""

    def power(gpu):
        if not has_power:
            raise NvmlError
        return 250_000 + gpu

    return SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: num_gpus,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=3e9, total=12e9),
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=40 + gpu),
        nvmlDeviceGetPowerUsage=power,
        nvmlDeviceGetEnforcedPowerLimit=lambda gpu: 500_000,
    )


def names_of(monitor):
    monitor.collect_metrics()
    return set(monitor.aggregate_metrics())


def test_names_and_values_are_those_of_mlflow(monkeypatch):
    nvml = fake_nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr("mlflow.system_metrics.metrics.gpu_monitor.pynvml", nvml, raising=False)
    usage = NodeUsage(has_gpus=True)
    found, gpus = usage.read(), GPUMonitor()
    known = names_of(CPUMonitor()) | names_of(NetworkMonitor()) | names_of(gpus)
    assert found.keys() <= known
    # Left out: the share of the power limit.
    assert known - found.keys() == {f"gpu_{i}_power_usage_percentage" for i in (0, 1)}
    for name, value in gpus.aggregate_metrics().items():
        assert found.get(name, value) == pytest.approx(value, abs=0.1)
    expected = psutil.virtual_memory().used / 1e6
    assert found["system_memory_usage_megabytes"] == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("nvml", [None, fake_nvml(num_gpus=0)], ids=["no library", "no GPU"])
def test_without_gpus_the_other_figures_remain(nvml, monkeypatch):
    # None in sys.modules: an import fails.
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = NodeUsage(has_gpus=True).read()
    assert "cpu_utilization_percentage" in found
    assert not any(name.startswith("gpu") for name in found)


def test_a_figure_that_a_gpu_lacks_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(1, has_power=False))
    found = {name for name in NodeUsage(has_gpus=True).read() if name.startswith("gpu")}
    assert found == {
        "gpu_0_memory_usage_megabytes",
        "gpu_0_memory_usage_percentage",
        "gpu_0_utilization_percentage",
    }


class CountedUsage:
    """A node whose figures are the numbers 0, 1, 2 ... of the calls."""

    def __init__(self, *, has_gpus):
        self.num_calls = 0
        self.failing = set()

    def read(self):
        self.num_calls += 1
        value = float(self.num_calls - 1)
        figures = {"cpu_utilization_percentage": value, "network_receive_megabytes": value}
        return {k: v for k, v in figures.items() if k not in self.failing}

    def close(self):
        pass


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.setattr(module, "NodeUsage", CountedUsage)
    monkeypatch.setattr(module, "SAMPLE_INTERVAL_S", 3600.0)
    metrics = SystemMetrics(ALONE, None, 10)
    yield metrics
    metrics.close()


def sample(metrics, count):
    metrics._next_s = 0.0
    for _ in range(count):
        metrics._sample_if_due()


def test_an_interval_has_the_mean_of_its_samples_and_the_last_count(counted):
    sample(counted, 4)  # 1, 2, 3, 4; 0 was read at the start
    assert counted.read() == {
        "system/cpu_utilization_percentage": 2.5,
        "system/network_receive_megabytes": 4.0,
    }
    sample(counted, 2)  # 5, 6
    assert counted.read()["system/cpu_utilization_percentage"] == 5.5
    # An interval that is shorter than the time between samples gets one of its own.
    assert counted.read()["system/cpu_utilization_percentage"] == 7.0


def test_a_figure_that_fails_is_missing_in_its_interval_alone(counted):
    counted._usage.failing = {"cpu_utilization_percentage"}
    sample(counted, 1)
    counted._usage.failing = set()
    sample(counted, 1)
    assert counted.read().keys() == {"system/network_receive_megabytes"}
    assert "system/cpu_utilization_percentage" in counted.read()


def test_this_machine_has_plausible_figures():
    metrics = SystemMetrics(ALONE, None, 10)
    short = metrics.read()
    time.sleep(MIN_SPAN_S)
    found = metrics.read()
    metrics.close()
    # Over a moment, the CPUs' share would be 0 or 100.
    assert found.keys() - short.keys() == {"system/cpu_utilization_percentage"}
    assert all(math.isfinite(value) and value >= 0 for value in found.values())
    shares = [value for name, value in found.items() if name.endswith("_percentage")]
    assert len(shares) == 2
    assert max(shares) <= 100


def test_reading_the_other_figures_does_not_shorten_the_span_of_the_cpus(monkeypatch):
    now_s, spans_s, read_s = [0.0], [], [0.0]

    def cpu_percent():
        spans_s.append(now_s[0] - read_s[0])
        read_s[0] = now_s[0]
        return 50.0

    monkeypatch.setattr("service.training.node_usage.psutil.cpu_percent", cpu_percent)
    monkeypatch.setattr("service.training.node_usage.time.monotonic", lambda: now_s[0])
    usage = NodeUsage(has_gpus=False)
    for tenth in range(1, 50):
        now_s[0] = tenth / 10
        share = usage.read()["cpu_utilization_percentage"]
        assert share == 50.0 or math.isnan(share)
    assert len(spans_s) > 3
    # The first one starts the clock.
    assert min(spans_s[1:]) >= MIN_SPAN_S


def measure(rank, hosts, folder):
    """One of several workers; writes what it reads."""
    module.NodeUsage = CountedUsage
    module.socket.gethostname = lambda: hosts[rank]
    size = len(hosts)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size
    )
    metrics = SystemMetrics(World(rank, size, CPU, 1), dist.new_group(backend="gloo"), 30)
    (folder / f"rank{rank}").write_text(json.dumps(metrics.read()))
    metrics.close()
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("hosts", "prefixes"), [(["a", "a"], ["system/"]), (["a", "b"], ["system/0/", "system/1/"])]
)
def test_each_node_is_measured_once(hosts, prefixes, tmp_path):
    run_ranks(measure, (hosts, tmp_path), len(hosts))
    names = ("cpu_utilization_percentage", "network_receive_megabytes")
    expected = {f"{prefix}{name}": 1.0 for prefix in prefixes for name in names}
    if len(prefixes) == 1:
        assert json.loads((tmp_path / "rank0").read_text()) == expected
    else:
        for rank in (0, 1):
            assert json.loads((tmp_path / f"rank{rank}").read_text()) == expected
