"""Details of the pictures of a run, and what its page says of its time."""

import json

import pytest
from support.run_folders import journal_events, write_run_folder

from service.run.durations import Durations
from service.run.progress import Progress
from service.run.result import RunResult
from service.run_page.pictures import learning_curve, log_ticks
from service.run_page.record import read_record
from service.spec.loading import parse_spec


@pytest.fixture
def spec(make_content):
    spec = parse_spec(make_content())
    write_run_folder(spec.run_path, journal_events(2))
    return spec


def test_the_best_epoch_is_drawn_over_the_last(spec):
    figure = learning_curve(read_record(spec, spec.run_path))
    assert [trace.name for trace in figure.data][-2:] == ["last", "best"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.3, 4.0, [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50]),
        (0.5, 0.7, [0.1, 0.2, 0.5, 1, 2, 5]),
        (0.002, 300.0, [0.001, 0.01, 0.1, 1, 10, 100, 1000]),
    ],
)
def test_ticks_of_a_logarithmic_axis(low, high, expected):
    assert log_ticks(low, high) == pytest.approx(expected)


def test_a_finished_run_has_the_time_of_its_result(spec):
    marks = [{"kind": "begin", "time_ms": 0}, {"kind": "end", "time_ms": 10**6}]
    lines = "".join(f"{json.dumps(mark)}\n" for mark in marks)
    (spec.run_path / "submissions.jsonl").write_text(lines)
    assert read_record(spec, spec.run_path).times.waiting_s > 900
    RunResult(Progress(), "val", 12.0, 34.0, time_ms=0).write(spec.run_path)
    assert read_record(spec, spec.run_path).times == Durations(12.0, 34.0)
