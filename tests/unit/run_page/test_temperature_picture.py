"""The picture of the temperatures shows the values of the journal."""

import io

import pytest
from PIL import Image
from support.run_folders import journal_events, temperature_values, write_run_folder

from service.run.journal import Event
from service.run_page.temperatures import base_temperature, temperature_figure, temperatures_png
from service.spec.loading import parse_spec


def event(step, teacher, student):
    names = ("p5", "mean", "p95")
    values = {f"dtkd/teacher_temperature_{n}": v for n, v in zip(names, teacher, strict=True)}
    values |= {f"dtkd/student_temperature_{n}": v for n, v in zip(names, student, strict=True)}
    return Event("interval", step, 0, 0, values)


def test_lines_are_the_means_by_step_in_bands_of_percentiles():
    events = [event(4, (5, 6, 7), (1, 2, 3)), event(8, (4, 5, 6), (2, 3, 4))]
    events.insert(1, Event("evaluation", 4, 1, 0, {"val/top1": 0.5}))
    axes = temperature_figure(events, "dtkd", 4.0, "title").axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}

    teacher = next(line for label, line in lines.items() if label.startswith("teacher"))
    student = next(line for label, line in lines.items() if label.startswith("student"))
    assert teacher.get_xdata().tolist() == [4, 8]
    assert teacher.get_ydata().tolist() == [6, 5]
    assert student.get_ydata().tolist() == [2, 3]
    assert set(lines["base temperature"].get_ydata()) == {4.0}
    corners = [
        {tuple(point) for point in band.get_paths()[0].vertices} for band in axes.collections
    ]
    assert {(4, 5), (4, 7), (8, 4), (8, 6)} <= corners[0]
    assert {(4, 1), (4, 3), (8, 2), (8, 4)} <= corners[1]


def test_long_runs_are_drawn_with_means_of_neighbors():
    events = [event(n, (n - 1, n, n + 1), (1, 2, 3)) for n in range(3001)]
    axes = temperature_figure(events, "dtkd", None, "title").axes[0]
    teacher, student = axes.get_lines()
    assert len(teacher.get_xdata()) == 300
    assert teacher.get_ydata() == pytest.approx(teacher.get_xdata())
    assert set(student.get_ydata()) == {2.0}


def test_run_without_temperatures_has_no_figure():
    events = [Event("interval", 4, 0, 0, {"train/loss": 1.0})]
    with pytest.raises(ValueError, match="no temperatures of dtkd"):
        temperature_figure(events, "dtkd", 4.0, "title")


def test_picture_is_of_the_first_loss_that_logs_a_pair(make_content, teacher):
    losses = {"ce": {}, "kd": {"temperature": {"kind": "dynamic", "base_temperature": 3}}}
    spec = parse_spec(make_content(teacher=teacher, losses={**losses, "normkd": {}}))
    write_run_folder(spec.run_path, journal_events(2))
    assert temperatures_png(spec, spec.run_path) is None, "dtkd is no loss of this run"
    events = journal_events(2)
    for kind, _, _, values in events:
        values |= temperature_values("kd", 3.0) if kind == "interval" else {}
    write_run_folder(spec.run_path, events)
    content = temperatures_png(spec, spec.run_path)
    assert Image.open(io.BytesIO(content)).width == 1000
    assert len(content) < 150_000


def test_base_temperature_is_that_of_the_rule_if_it_has_one(make_content, teacher):
    rule = {"kind": "dynamic", "base_temperature": 3}
    losses = {"dtkd": {"base_temperature": 5}, "kd": {"temperature": rule}, "dkd": {}, "normkd": {}}
    spec = parse_spec(make_content(teacher=teacher, losses=losses))
    found = {name: base_temperature(spec, name) for name in (*losses, "unknown")}
    assert found == {"dtkd": 5, "kd": 3, "dkd": None, "normkd": None, "unknown": None}
