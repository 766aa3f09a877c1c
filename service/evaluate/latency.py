"""How long a network takes for a batch, and how much memory that needs beside its weights.

Measured is what the service itself runs: the network in eval mode and float32, its convolutions in
channels_last, on normalized images in channels_last that are on the device already. Decoding,
copying and normalizing images are not part of it. On a CPU, memory is allocated as by default.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from service.evaluate.report import Latency
from service.training.distributed import release_freed_memory, use_default_allocation
from service.training.memory import is_out_of_memory
from service.training.peak_memory import process_bytes, reset_process_peak

BATCH_SIZES = (1, 32)
WARM_UP_S, MEASURED_S = 0.5, 2.0
MIN_WARM_UPS, MIN_PASSES = 2, 10


@torch.inference_mode()
def measure_latency(
    network: nn.Module,
    size_px: int,
    device: torch.device,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> list[Latency]:
    """Median and 95th percentile of a forward pass, over about two seconds of passes.

    Batches that do not fit into the GPU's memory are left out.

    Args:
        network: normalized images [B, 3, size_px, size_px] to logits, in float32 and eval mode. It
            is moved to the device and to channels_last.
        size_px: side of its images.
        device: where it is measured. torch's number of CPU threads is used as it is, and reported.
        batch_sizes: images in a pass, each measured for itself.
    """
    assert not network.training
    network.to(device).to(memory_format=torch.channels_last)
    # As in a program that only predicts; with what training sets, freed memory is kept in pieces.
    use_default_allocation()
    found = []
    for batch_size in batch_sizes:
        try:
            found.append(_measured(network, size_px, device, batch_size))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
    return found


def _measured(network: nn.Module, size_px: int, device: torch.device, batch_size: int) -> Latency:
    # What has been freed before may be used again, and then counts as what the passes need.
    release_freed_memory()
    before_bytes = _allocated_bytes(device)
    random = torch.Generator(device).manual_seed(0)
    images = torch.randn(batch_size, 3, size_px, size_px, generator=random, device=device)
    images = images.contiguous(memory_format=torch.channels_last)

    def run_pass() -> None:
        network(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    _timed_s(run_pass, MIN_WARM_UPS, WARM_UP_S)
    # After the warm-up, in which cuDNN tries algorithms that need more.
    is_peak_known = _reset_peak(device)
    durations_s = _timed_s(run_pass, MIN_PASSES, MEASURED_S)
    peak_bytes = _peak_bytes(device) - before_bytes if is_peak_known else None
    median_s, p95_s = np.quantile(durations_s, (0.5, 0.95)).tolist()
    is_gpu = device.type == "cuda"
    return Latency(
        batch_size=batch_size,
        device=torch.cuda.get_device_name(device) if is_gpu else device.type,
        num_threads=torch.get_num_threads(),
        median_s=median_s,
        p95_s=p95_s,
        images_per_s=batch_size / median_s,
        peak_memory_bytes=peak_bytes,
    )


def _timed_s(run_pass: Callable[[], None], min_passes: int, min_duration_s: float) -> list[float]:
    """Seconds of each pass; at least this many, and passes for at least this long."""
    durations_s: list[float] = []
    start_s = now_s = time.perf_counter()
    while len(durations_s) < min_passes or now_s - start_s < min_duration_s:
        run_pass()
        end_s = time.perf_counter()
        durations_s.append(end_s - now_s)
        now_s = end_s
    return durations_s


def _allocated_bytes(device: torch.device) -> int:
    """What torch has allocated on a GPU; what is resident of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return process_bytes().resident


def _reset_peak(device: torch.device) -> bool:
    """Let the peak start from what is allocated now; whether the system allows that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    return reset_process_peak()


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return process_bytes().peak
