"""Latency and memory of networks that sleep and allocate a known amount."""

import time

import pytest
import torch
from torch import nn

from service.evaluate import latency
from service.evaluate.latency import measure_latency

CPU = torch.device("cpu")
PASS_S, NUM_BYTES = 0.02, 200_000_000


class Sleeper(nn.Module):
    """Sleeps, for longer in every tenth pass, and keeps what it was called with."""

    def __init__(self):
        super().__init__()
        self.inputs = []

    def forward(self, images):
        self.inputs.append((images.shape, images.is_contiguous(memory_format=torch.channels_last)))
        time.sleep(PASS_S * (6 if len(self.inputs) % 10 == 0 else 1))
        assert torch.is_inference_mode_enabled()
        return images.mean(dim=(1, 2, 3))


class Allocator(nn.Module):
    """Fills a tensor of a known size and frees it."""

    def forward(self, images):
        return torch.ones(NUM_BYTES, dtype=torch.uint8)[: len(images)]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(latency, "WARM_UP_S", 0.05)
    monkeypatch.setattr(latency, "MEASURED_S", 0.3)


def test_times_are_those_of_the_passes():
    network = Sleeper().eval()
    found = measure_latency(network, 24, CPU, batch_sizes=(1, 4))
    assert [each.batch_size for each in found] == [1, 4]
    assert {shape for shape, _ in network.inputs} == {(1, 3, 24, 24), (4, 3, 24, 24)}
    assert all(is_channels_last for _, is_channels_last in network.inputs)
    for each in found:
        # A busy machine makes passes longer, never shorter.
        assert each.median_s >= PASS_S
        assert each.p95_s >= each.median_s
        assert each.images_per_s == pytest.approx(each.batch_size / each.median_s)
        assert (each.device, each.num_threads) == ("cpu", torch.get_num_threads())
    assert max(each.p95_s for each in found) > 2 * PASS_S, "one pass in ten takes longer"


def test_convolutions_are_measured_in_channels_last():
    network = nn.Conv2d(3, 8, 3).eval()
    measure_latency(network, 16, CPU, batch_sizes=(2,))
    assert network.weight.is_contiguous(memory_format=torch.channels_last)


def test_memory_is_what_the_passes_add():
    kept = torch.ones(NUM_BYTES, dtype=torch.uint8)
    freed = torch.ones(NUM_BYTES, dtype=torch.uint8)
    del freed
    (found,) = measure_latency(Allocator().eval(), 16, CPU, batch_sizes=(1,))
    assert 0.9 * NUM_BYTES < found.peak_memory_bytes < 1.3 * NUM_BYTES
    assert kept[-1] == 1


def test_memory_is_none_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setattr(latency, "reset_process_peak", lambda: False)
    (found,) = measure_latency(Allocator().eval(), 16, CPU, batch_sizes=(1,))
    assert found.peak_memory_bytes is None


class OneImage(nn.Module):
    """Fails for more than one image."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, images):
        if len(images) > 1:
            raise self.error
        return images


def test_batches_that_do_not_fit_are_left_out():
    network = OneImage(torch.OutOfMemoryError("full")).eval()
    found = measure_latency(network, 16, CPU, batch_sizes=(1, 32))
    assert [each.batch_size for each in found] == [1]


def test_other_errors_are_raised():
    with pytest.raises(RuntimeError, match="wrong shape"):
        measure_latency(OneImage(RuntimeError("wrong shape")).eval(), 16, CPU)
