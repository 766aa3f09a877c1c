"""Times alternatives against each other: in turn, so that other programs slow all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

Name = TypeVar("Name", bound=str)

NUM_ROUNDS = 5
LIMIT_S = 20.0
"""After this time no other round begins, once there was one."""


def median_times_s(
    alternatives: Mapping[Name, Callable[[], object]], device: torch.device
) -> dict[Name, float]:
    """Median of the seconds of each call, over some rounds in which each is called once.

    Each is called once before, so that what is prepared at first does not count.
    """
    for call in alternatives.values():
        call()
    times_s: dict[Name, list[float]] = {name: [] for name in alternatives}
    start_s = time.perf_counter()
    for _ in range(NUM_ROUNDS):
        for name, call in alternatives.items():
            times_s[name].append(seconds(call, device))
        if time.perf_counter() - start_s > LIMIT_S:
            break
    return {name: statistics.median(of_one) for name, of_one in times_s.items()}


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """How long one call takes, with the work that it launches on a GPU."""
    wait_for(device)
    start_s = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - start_s


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
