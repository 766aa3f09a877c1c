"""Metrics of an interval against sums by hand, with a clock that tests set."""

import pytest
import torch
import torch.distributed as dist

from data_pipeline.loader import Batch
from service.distillation.objective import TaskOutput
from service.distillation.temperature import Temperatures
from service.training.distributed import World
from service.training.metrics import IntervalMetrics

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A list whose last entry is the time in seconds."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[-1])
    return now


def output_of(loss, clamped_share=0.0):
    parts = {"loss": torch.tensor(loss), "clamped_share": torch.tensor(clamped_share)}
    logits = torch.zeros(1, 2)
    return TaskOutput(parts["loss"], parts, logits, None, None)


def alone():
    return World(0, 1, CPU, 1)


def test_parts_are_means_over_steps(clock):
    metrics = IntervalMetrics(alone(), 4.0)
    # Two steps: the first of micro-batches of 3/4 and 1/4 of its images.
    metrics.add(output_of(2.0, 0.5), 0.75)
    metrics.add(output_of(6.0, 0.0), 0.25)
    metrics.step_done(32)
    metrics.add(output_of(5.0, 0.25), 1.0)
    metrics.step_done(16)
    clock.append(102.0)
    values = metrics.read(output_of(0.0))
    assert values["train/loss"] == pytest.approx((0.75 * 2 + 0.25 * 6 + 5) / 2)
    assert values["temperature/clamped_share"] == pytest.approx((0.75 * 0.5 + 0.25) / 2)
    assert values["system/images_per_s"] == pytest.approx(48 / 2)
    assert "train/agreement" not in values


def test_parts_are_means_over_workers_and_images_are_sums(clock, monkeypatch):
    """The other worker's losses are 3 lower; it waited 1 s and trained on 8 images."""
    monkeypatch.setattr(dist, "all_reduce", lambda totals: totals.add_(totals + others))
    others = torch.tensor([-3.0, 0.0, 1.0, 8.0], dtype=torch.float64)
    metrics = IntervalMetrics(World(0, 2, CPU, 1), 4.0)
    metrics.add(output_of(5.0), 1.0)
    metrics.step_done(16)
    clock.append(104.0)
    values = metrics.read(output_of(0.0))
    assert values["train/loss"] == pytest.approx((5 + 2) / 2)
    assert values["system/images_per_s"] == pytest.approx((16 + 24) / 4)
    assert values["system/data_wait_share"] == pytest.approx((1 / 2) / 4)


def test_waiting_for_data_is_a_share_of_the_time(clock):
    metrics = IntervalMetrics(alone(), 4.0)

    def slow():
        for _ in range(3):
            clock.append(clock[-1] + 2.0)
            yield Batch(None, None, None)
        clock.append(clock[-1] + 1.0)

    for number, _ in enumerate(metrics.timed(slow())):
        assert number < 3
        metrics.add(output_of(1.0), 1.0)
        metrics.step_done(1)
        clock.append(clock[-1] + 1.0)
    values = metrics.read(output_of(0.0))
    # 3 x 2 s and 1 s for the end, in 10 s.
    assert values["system/data_wait_share"] == pytest.approx(0.7)


def test_reading_starts_a_new_interval(clock):
    metrics = IntervalMetrics(alone(), 4.0)
    assert metrics.is_empty
    metrics.add(output_of(9.0), 1.0)
    metrics.step_done(10)
    assert not metrics.is_empty
    clock.append(101.0)
    metrics.read(output_of(0.0))
    assert metrics.is_empty
    metrics.add(output_of(1.0), 1.0)
    metrics.step_done(20)
    clock.append(105.0)
    values = metrics.read(output_of(0.0))
    assert values["train/loss"] == 1.0
    assert values["system/images_per_s"] == pytest.approx(20 / 4)
    assert values["system/data_wait_share"] == 0.0


def test_pauses_and_skipped_time_do_not_count(clock):
    metrics = IntervalMetrics(alone(), 4.0)
    metrics.add(output_of(1.0), 1.0)
    metrics.step_done(12)
    with metrics.pause():
        clock.append(150.0)
    clock.append(157.0)
    metrics.skip_time(3.0)
    assert metrics.read(output_of(0.0))["system/images_per_s"] == pytest.approx(12 / 4)


def test_an_interval_continues_from_a_checkpoint(clock):
    metrics = IntervalMetrics(alone(), 4.0)
    metrics.add(output_of(3.0), 1.0)
    metrics.step_done(8)
    clock.append(102.0)
    state = metrics.state()
    # Much later, in another process.
    clock.append(900.0)
    resumed = IntervalMetrics(alone(), 4.0)
    resumed.restore(state)
    resumed.add(output_of(1.0), 1.0)
    resumed.step_done(8)
    clock.append(902.0)
    values = resumed.read(output_of(0.0))
    assert values["train/loss"] == pytest.approx(2.0)
    assert values["system/images_per_s"] == pytest.approx(16 / 4)


def test_temperatures_are_summarized(clock):
    teacher = torch.tensor([[1.0], [2.0], [3.0], [4.0], [10.0]])
    temperatures = Temperatures(teacher, 12.0 - teacher, torch.zeros(5, dtype=torch.bool))
    logits = torch.tensor([[2.0, 0.0]] * 5)
    others = torch.tensor([[2.0, 0.0]] * 3 + [[0.0, 2.0]] * 2)
    output = TaskOutput(
        torch.tensor(1.0), {"loss": torch.tensor(1.0)}, others, logits, temperatures
    )
    metrics = IntervalMetrics(alone(), 6.0)
    metrics.add(output, 1.0)
    metrics.step_done(5)
    clock.append(101.0)
    values = metrics.read(output)
    assert values["temperature/teacher_mean"] == pytest.approx(4.0)
    assert values["temperature/teacher_p50"] == pytest.approx(3.0)
    # Linear interpolation between the ranks, as numpy's default.
    assert values["temperature/teacher_p5"] == pytest.approx(1.2)
    assert values["temperature/teacher_p95"] == pytest.approx(8.8)
    assert values["temperature/student_p5"] == pytest.approx(12 - 8.8)
    assert values["train/agreement"] == pytest.approx(3 / 5)
    assert values["temperature/gap_before"] == pytest.approx(0.0, abs=1e-6)
    # |LSE([1, -1] / t) - LSE([1, -1] / (12 - t))| of centered logits.
    t = teacher[:, 0].double()
    gaps = (torch.log(2 * torch.cosh(1 / t)) - torch.log(2 * torch.cosh(1 / (12 - t)))).abs()
    assert values["temperature/gap_after"] == pytest.approx(gaps.mean().item(), rel=1e-5)
