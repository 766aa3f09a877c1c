"""The picture of the temperatures shows the values of the journal."""

import io

import pytest
from PIL import Image
from support.run_folders import journal_events, temperature_values, write_run_folder

from jobs.results import temperatures
from service.run.folder import write_spec
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


def write_run(make_content, teacher, name, base_temperature):
    losses = {"ce": {}, "dtkd": {"base_temperature": base_temperature}}
    spec = parse_spec(make_content(name=name, teacher=teacher, losses=losses))
    events = journal_events(2)
    for kind, _, _, values in events:
        values |= temperature_values("dtkd", base_temperature) if kind == "interval" else {}
    write_run_folder(spec.run_path, events)
    write_spec(spec)
    return spec.run_path


def test_runs_side_by_side_have_axes_of_one_range(make_content, teacher, tmp_path):
    runs = [write_run(make_content, teacher, name, tau) for name, tau in (("weak", 2), ("all", 7))]
    weak, other = temperatures.picture(runs).axes
    assert (weak.get_title(), other.get_title()) == ("weak", "all")
    assert weak.get_ylim() == other.get_ylim()
    bases = [{line.get_label(): line for line in axes.get_lines()} for axes in (weak, other)]
    assert [set(lines["base temperature"].get_ydata()) for lines in bases] == [{2.0}, {7.0}]
    out = tmp_path / "two.svg"
    assert temperatures.main([str(out), *map(str, runs)]) == 0
    content = out.read_bytes()
    temperatures.main([str(out), *map(str, runs)])
    assert out.read_bytes() == content


def test_folder_without_a_run_is_one_error_and_no_picture(tmp_path, capsys):
    out = tmp_path / "two.svg"
    with pytest.raises(SystemExit) as caught:
        temperatures.main([str(out), str(tmp_path)])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line
    assert not out.exists()
