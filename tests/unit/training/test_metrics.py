"""Metrics of an interval against sums by hand, with a clock that tests set."""

import pytest
import torch
import torch.distributed as dist

from data_pipeline.batches import Batch
from service.distillation.losses.base import LossInputs
from service.distillation.task import TaskOutput
from service.training.distributed import World
from service.training.metrics import IntervalMetrics

CPU = torch.device("cpu")
FINITE = torch.tensor(False)


@pytest.fixture
def clock(monkeypatch):
    """A list whose last entry is the time in seconds."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[-1])
    return now


def output_of(loss, kd=0.0):
    parts = {"loss": torch.tensor(loss), "kd": torch.tensor(kd)}
    return TaskOutput(parts["loss"], parts, LossInputs(torch.zeros(1, 2), torch.zeros(1), epoch=0))


def nothing(_):
    return {}


def alone():
    return World(0, 1, CPU, 1)


def test_parts_are_means_over_steps(clock):
    metrics = IntervalMetrics(alone(), nothing)
    # Two steps: the first of micro-batches of 3/4 and 1/4 of its images.
    metrics.add(output_of(2.0, 0.5), 0.75)
    metrics.add(output_of(6.0, 0.0), 0.25)
    metrics.step_done(32, FINITE)
    metrics.add(output_of(5.0, 0.25), 1.0)
    metrics.step_done(16, FINITE)
    clock.append(102.0)
    values = metrics.read(output_of(0.0))
    assert values["train/loss"] == pytest.approx((0.75 * 2 + 0.25 * 6 + 5) / 2)
    assert values["train/kd"] == pytest.approx((0.75 * 0.5 + 0.25) / 2)
    assert values["speed/images_per_s"] == pytest.approx(48 / 2)
    assert "train/agreement" not in values


def test_parts_are_means_over_workers_and_images_are_sums(clock, monkeypatch):
    """The other worker's losses are 3 lower; it waited 1 s and trained on 8 images."""
    monkeypatch.setattr(dist, "all_reduce", lambda totals: totals.add_(totals + others))
    others = torch.tensor([-3.0, 0.0, 1.0, 8.0], dtype=torch.float64)
    metrics = IntervalMetrics(World(0, 2, CPU, 1), nothing)
    metrics.add(output_of(5.0), 1.0)
    metrics.step_done(16, FINITE)
    clock.append(104.0)
    values = metrics.read(output_of(0.0))
    assert values["train/loss"] == pytest.approx((5 + 2) / 2)
    assert values["speed/images_per_s"] == pytest.approx((16 + 24) / 4)
    assert values["speed/data_wait_share"] == pytest.approx((1 / 2) / 4)


def test_waiting_for_data_is_a_share_of_the_time(clock):
    metrics = IntervalMetrics(alone(), nothing)

    def slow():
        for _ in range(3):
            clock.append(clock[-1] + 2.0)
            yield Batch(None, None, None)
        clock.append(clock[-1] + 1.0)

    for number, _ in enumerate(metrics.timed(slow())):
        assert number < 3
        metrics.add(output_of(1.0), 1.0)
        metrics.step_done(1, FINITE)
        clock.append(clock[-1] + 1.0)
    values = metrics.read(output_of(0.0))
    # 3 x 2 s and 1 s for the end, in 10 s.
    assert values["speed/data_wait_share"] == pytest.approx(0.7)


def test_reading_starts_a_new_interval(clock):
    metrics = IntervalMetrics(alone(), nothing)
    assert metrics.is_empty
    metrics.add(output_of(9.0), 1.0)
    metrics.step_done(10, FINITE)
    assert not metrics.is_empty
    clock.append(101.0)
    metrics.read(output_of(0.0))
    assert metrics.is_empty
    metrics.add(output_of(1.0), 1.0)
    metrics.step_done(20, FINITE)
    clock.append(105.0)
    values = metrics.read(output_of(0.0))
    assert values["train/loss"] == 1.0
    assert values["speed/images_per_s"] == pytest.approx(20 / 4)
    assert values["speed/data_wait_share"] == 0.0


def test_pauses_and_skipped_time_do_not_count(clock):
    metrics = IntervalMetrics(alone(), nothing)
    metrics.add(output_of(1.0), 1.0)
    metrics.step_done(12, FINITE)
    with metrics.pause():
        clock.append(150.0)
    clock.append(157.0)
    metrics.skip_time(3.0)
    assert metrics.read(output_of(0.0))["speed/images_per_s"] == pytest.approx(12 / 4)


def test_an_interval_continues_from_a_checkpoint(clock):
    metrics = IntervalMetrics(alone(), nothing)
    metrics.add(output_of(3.0), 1.0)
    metrics.step_done(8, FINITE)
    clock.append(102.0)
    state = metrics.state()
    # Much later, in another process.
    clock.append(900.0)
    resumed = IntervalMetrics(alone(), nothing)
    resumed.restore(state)
    resumed.add(output_of(1.0), 1.0)
    resumed.step_done(8, FINITE)
    clock.append(902.0)
    values = resumed.read(output_of(0.0))
    assert values["train/loss"] == pytest.approx(2.0)
    assert values["speed/images_per_s"] == pytest.approx(16 / 4)


def test_columns_are_summarized_by_their_mean_and_temperatures_by_quantiles_too(clock):
    teacher = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0])
    columns = {
        "train/agreement": torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]),
        "dtkd/teacher_temperature": teacher,
        "dtkd/student_temperature": 12.0 - teacher,
        "dtkd/gap_after": 0.5 * teacher,
        # One for all samples.
        "ctkd/temperature": torch.full((5,), 7.0),
    }
    asked = []

    def telemetry(inputs):
        asked.append(inputs)
        return columns

    metrics = IntervalMetrics(alone(), telemetry)
    output = output_of(1.0)
    metrics.add(output, 1.0)
    metrics.step_done(5, FINITE)
    assert asked == []
    clock.append(101.0)
    values = metrics.read(output)
    assert asked == [output.inputs]
    found = {name: value for name, value in values.items() if name[:5] in ("dtkd/", "ctkd/")}
    # Linear interpolation between the ranks, as numpy's default.
    assert found == pytest.approx(
        {
            "dtkd/teacher_temperature_mean": 4.0,
            "dtkd/teacher_temperature_p5": 1.2,
            "dtkd/teacher_temperature_p50": 3.0,
            "dtkd/teacher_temperature_p95": 8.8,
            "dtkd/student_temperature_mean": 8.0,
            "dtkd/student_temperature_p5": 12 - 8.8,
            "dtkd/student_temperature_p50": 9.0,
            "dtkd/student_temperature_p95": 12 - 1.2,
            "dtkd/gap_after": 2.0,
            "ctkd/temperature": 7.0,
        }
    )
    assert values["train/agreement"] == pytest.approx(3 / 5)


def test_columns_of_all_workers_count_by_their_samples(clock, monkeypatch):
    """This worker has two samples and the other one three, in a smaller last step."""
    others = torch.tensor([[4.0], [5.0], [6.0]])

    def add_other_worker(totals):
        # Of the losses and times first, then of the numbers of samples.
        totals += torch.tensor([0, 3]) if totals.dtype == torch.int64 else totals.clone()

    def gather(gathered, own):
        assert len(own) == 3
        gathered[0].copy_(own)
        gathered[1].copy_(others)

    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "all_reduce", add_other_worker)
    monkeypatch.setattr(dist, "all_gather", gather)
    columns = {"kd/gap_before": torch.tensor([1.0, 2.0])}
    metrics = IntervalMetrics(World(0, 2, CPU, 1), lambda _: columns)
    metrics.add(output_of(1.0), 1.0)
    metrics.step_done(2, FINITE)
    clock.append(101.0)
    values = metrics.read(output_of(0.0))
    assert values["kd/gap_before"] == pytest.approx((1 + 2 + 4 + 5 + 6) / 5)
