"""The speed of large matrix products, which no network can exceed."""

import time

import torch

MEASURED_S, MIN_PRODUCTS = 0.5, 10
CPU_SIZE, CUDA_SIZE = 1024, 8192


def matrix_product_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest product of two square matrices, with torch's current threads."""
    size = CUDA_SIZE if device.type == "cuda" else CPU_SIZE
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = left @ right
    durations_s: list[float] = []
    # The fastest: other programs take time from some of them.
    while len(durations_s) < MIN_PRODUCTS or sum(durations_s) < MEASURED_S:
        synchronize(device)
        start_s = time.perf_counter()
        torch.mm(left, right, out=product)
        synchronize(device)
        durations_s.append(time.perf_counter() - start_s)
    return 2.0 * size**3 / min(durations_s)


def synchronize(device: torch.device) -> None:
    """Wait for what was launched on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
