"""The figure of the temperatures shows the values of the journal."""

import pytest

from service.run.figures import temperature_figure
from service.run.journal import Event


def event(step, teacher, student):
    names = ("p5", "p50", "p95")
    values = {f"dtkd/teacher_temperature_{n}": v for n, v in zip(names, teacher, strict=True)}
    values |= {f"dtkd/student_temperature_{n}": v for n, v in zip(names, student, strict=True)}
    return Event("interval", step, 0, 0, values)


def test_lines_are_the_medians_by_step():
    events = [event(4, (5, 6, 7), (1, 2, 3)), event(8, (4, 5, 6), (2, 3, 4))]
    events.insert(1, Event("evaluation", 4, 1, 0, {"val/top1": 0.5}))
    axes = temperature_figure(events, 4.0, "title").axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}

    teacher = next(line for label, line in lines.items() if label.startswith("teacher"))
    student = next(line for label, line in lines.items() if label.startswith("student"))
    assert teacher.get_xdata().tolist() == [4, 8]
    assert teacher.get_ydata().tolist() == [6, 5]
    assert student.get_ydata().tolist() == [2, 3]
    assert set(lines["base temperature"].get_ydata()) == {4.0}


def test_run_without_temperatures_has_no_figure():
    with pytest.raises(ValueError, match="no loss dtkd"):
        temperature_figure([Event("interval", 4, 0, 0, {"train/loss": 1.0})], 4.0, "title")
