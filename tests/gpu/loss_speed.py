"""The default losses against the released formula in eager PyTorch, and against their bytes."""

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from support.released_loss import released_loss
from table import Ratio, at_least, at_most
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gpu.bench import Bench
from service.distillation.losses.base import Context, LossInputs
from service.distillation.objective import Objective
from service.spec.losses import default_losses
from service.training.profiling.peak import synchronize

NUM_CLASSES = 1000
NUM_CALLS, NUM_ROUNDS = 20, 5
COPIED_BYTES = 1 << 30
# Both logits are read and the student's gradient is written.
NUM_PASSES = 3


def loss_speed(bench: Bench) -> Iterator[Ratio]:
    """Forward and backward of 3 DTKD + KD + CE; the goals are for a GPU."""
    bandwidth = _bandwidth(bench)
    yield Ratio("memory bandwidth of a copy: GB/s", round(bandwidth / 1e9, 1), "-", None)
    for num_samples in (64,) if bench.is_small else (1024, 16384):
        service, released = _service_loss(bench, num_samples), _released_loss(bench, num_samples)
        pairs = [(_seconds(bench, service), _seconds(bench, released)) for _ in range(NUM_ROUNDS)]
        ratio = statistics.median(theirs / ours for ours, theirs in pairs)
        name = f"loss [{num_samples}, {NUM_CLASSES}] against eager, {1e6 * pairs[-1][0]:,.0f} us"
        yield Ratio(name, ratio, "-", None) if bench.is_small else at_least(name, ratio, 2.5)
        floor_s = NUM_PASSES * 4 * num_samples * NUM_CLASSES / bandwidth
        busy_s = _busy_seconds(bench, service)
        name = f"loss [{num_samples}, {NUM_CLASSES}] over its bytes, {1e6 * floor_s:,.1f} us"
        # What is smaller stays in the cache, and takes less than the launches.
        has_goal = not bench.is_small and num_samples > 1024
        yield (
            at_most(name, busy_s / floor_s, 2.0)
            if has_goal
            else Ratio(name, busy_s / floor_s, "-", None)
        )


def _logits(bench: Bench, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    teacher, student = (
        torch.randn(num_samples, NUM_CLASSES, generator=generator).mul(3).to(bench.device)
        for _ in "12"
    )
    labels = torch.randint(0, NUM_CLASSES, (num_samples,), generator=generator)
    return teacher, student.requires_grad_(), labels.to(bench.device)


def _service_loss(bench: Bench, num_samples: int) -> Callable[[], None]:
    teacher, student, labels = _logits(bench, num_samples)
    losses = default_losses(has_teacher=True, has_labels=True)
    objective = Objective(losses, Context(NUM_CLASSES, 10)).to(bench.device)
    inputs = LossInputs(student, labels, epoch=9, teacher_logits=teacher)

    def call() -> None:
        student.grad = None
        objective(inputs).total.backward()

    return call


def _released_loss(bench: Bench, num_samples: int) -> Callable[[], None]:
    teacher, student, labels = _logits(bench, num_samples)

    def call() -> None:
        student.grad = None
        released_loss(teacher, student, labels).backward()

    return call


def _seconds(bench: Bench, call: Callable[[], object]) -> float:
    """Of a call, the host's work included."""
    call()
    synchronize(bench.device)
    start_s = time.perf_counter()
    for _ in range(NUM_CALLS):
        call()
    synchronize(bench.device)
    return (time.perf_counter() - start_s) / NUM_CALLS


def _busy_seconds(bench: Bench, call: Callable[[], None]) -> float:
    """Of a call: the time of its kernels on a GPU, all of it on a CPU."""
    if bench.device.type != "cuda":
        return _seconds(bench, call)
    call()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(NUM_CALLS):
            call()
        torch.cuda.synchronize()
    total_us = sum(event.self_device_time_total for event in profiler.key_averages())
    return total_us / 1e6 / NUM_CALLS


def _bandwidth(bench: Bench) -> float:
    """Bytes per second that a large copy reads and writes."""
    num_bytes = COPIED_BYTES >> 5 if bench.is_small else COPIED_BYTES
    source = torch.ones(num_bytes, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    return 2 * num_bytes / min(_seconds(bench, lambda: target.copy_(source)) for _ in range(3))
