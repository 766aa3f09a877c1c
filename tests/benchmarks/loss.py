"""The loss by itself: 3 DTKD + KD + CE, forward and backward, against the released formula.

    python tests/benchmarks/loss.py [--device cuda] [--rounds N] [--json FILE]

The released formula is the authors', in eager PyTorch: with the signed largest logits, and without
guards. Both get the same logits of 1,024 samples and 1,000 classes. Memory is the peak of what is
allocated in a call, the student's gradient included. On a GPU, the loss of 8,192 samples is also
compared with a copy of as many bytes as it must read and write.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from table import Comparison, Ratio, add_json_option, at_most, compare, report
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.released_loss import released_loss

from service.distillation.losses.base import Context, LossInputs
from service.distillation.objective import Objective
from service.spec.losses import Losses

NUM_SAMPLES, NUM_SAMPLES_ON_GPU, NUM_CLASSES = 1024, 8192, 1000
GOALS = {"max": 2.5, "norm": 2.5, "logsumexp": 1.0}
MEMORY_GOAL, FLOOR_GOAL = 0.5, 2.0
MIN_DURATION_S, NUM_TIMED_CALLS = 0.5, 50
# Both sides' logits are read, and the student's gradient is written, in float32.
FLOOR_PASSES, LOGIT_BYTES = 3, 4


class Case:
    """A loss of fixed logits, with its gradient."""

    def __init__(self, device: torch.device, num_samples: int, sharpness: str | None):
        generator = torch.Generator().manual_seed(1)
        u, v = 3.0 * torch.randn(2, num_samples, NUM_CLASSES, generator=generator)
        labels = torch.randint(0, NUM_CLASSES, (num_samples,), generator=generator)
        self.teacher, self.labels = u.to(device), labels.to(device)
        self.student = v.to(device).requires_grad_()
        self.num_samples, self.device = num_samples, device
        self._inputs = LossInputs(self.student, self.labels, epoch=1, teacher_logits=self.teacher)
        self._objective = None if sharpness is None else objective(sharpness)

    def __call__(self) -> None:
        """Forward and backward."""
        self.student.grad = None
        self._total().backward()

    def _total(self) -> Tensor:
        if self._objective is None:
            return released_loss(self.teacher, self.student, self.labels)
        return self._objective(self._inputs).total

    def rate(self) -> float:
        """Samples per second, after one call that is not measured."""
        self()
        synchronize(self.device)
        start_s, num_calls = time.perf_counter(), 0
        while time.perf_counter() - start_s < MIN_DURATION_S:
            self()
            num_calls += 1
            if num_calls % 10 == 0:
                synchronize(self.device)
        synchronize(self.device)
        return num_calls * self.num_samples / (time.perf_counter() - start_s)


def objective(sharpness: str) -> Objective:
    """3 DTKD with this rule + KD + CE."""
    losses = {"ce": {}, "dtkd": {"sharpness": sharpness}, "kd": {"weight": 1}, "warmup_epochs": 0}
    return Objective(Losses.model_validate(losses), Context(NUM_CLASSES, 10))


def main(arguments: list[str]) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; medians are reported")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    released = Case(device, NUM_SAMPLES, None)
    cases = {rule: Case(device, NUM_SAMPLES, rule) for rule in GOALS}
    comparisons = [
        Comparison(f"loss with {rule} / released", case.rate, released.rate, GOALS[rule])
        for rule, case in cases.items()
    ]
    ratios = compare(comparisons, options.rounds, "samples/s")
    reference_bytes = peak_bytes(released)
    for rule, case in cases.items():
        found_bytes = peak_bytes(case)
        name = f"memory with {rule} / released ({found_bytes:,} / {reference_bytes:,} bytes)"
        ratios.append(at_most(name, found_bytes / reference_bytes, MEMORY_GOAL))
    if device.type == "cuda":
        ratios += [against_a_copy(Case(device, NUM_SAMPLES_ON_GPU, rule), rule) for rule in GOALS]
    report(ratios, options.json)
    return 0


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_bytes(case: Case) -> int:
    """The largest number of bytes that are allocated on the device at once during a call."""
    case()
    case.student.grad = None
    synchronize(case.device)
    activities = [ProfilerActivity.CPU]
    if case.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, profile_memory=True) as profiler:
        case()
        synchronize(case.device)
    kind = DeviceType.CUDA if case.device.type == "cuda" else DeviceType.CPU
    assert profiler.profiler is not None
    changes = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]" and event.device_type() == kind
    ]
    num_bytes = peak = 0
    for _, change in sorted(changes, key=lambda one: one[0]):
        num_bytes += change
        peak = max(peak, num_bytes)
    return peak


def against_a_copy(case: Case, sharpness: str) -> Ratio:
    """Time of a call over that of a copy of the bytes that it must read and write."""
    num_bytes = FLOOR_PASSES * LOGIT_BYTES * case.num_samples * NUM_CLASSES
    # A copy reads and writes what it copies.
    source = torch.ones(num_bytes // 2, dtype=torch.uint8, device=case.device)
    target = torch.empty_like(source)
    floor_us = device_time_us(lambda: target.copy_(source))
    found_us = device_time_us(case)
    name = f"loss with {sharpness} / copy of its bytes ({found_us:,.0f} / {floor_us:,.0f} us)"
    return at_most(name, found_us / floor_us, FLOOR_GOAL)


def device_time_us(call: Callable[[], object]) -> float:
    """Time of a call's kernels on the device."""
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(NUM_TIMED_CALLS):
            call()
        torch.cuda.synchronize()
    total_us = sum(event.self_device_time_total for event in profiler.key_averages())
    return total_us / NUM_TIMED_CALLS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
