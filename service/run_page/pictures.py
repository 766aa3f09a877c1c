"""The pictures of a run: each is a figure, or None where the run has no data for it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from service.pages.figures import BLUE, GRAY, GREEN, ORANGE, PERCENT
from service.pages.lines import COLORS, WHOLE, add_line, finish, line_style
from service.pages.panels import single_panel
from service.pages.series import Series, thinned
from service.pages.temperatures import NOTE, add_temperatures, temperature_series
from service.run.report import SPLIT_WORDS
from service.run_page.record import RunRecord
from service.run_page.temperatures import base_temperature

FEW_DECADES = 2
"""Of a logarithmic axis: it has ticks within them."""
FEW_POINTS = 40
"""Of a line: each is marked."""
PARTS_COLORS = (BLUE, ORANGE, GREEN, "#8856a7", "#b8860b", "#17becf", "#c51b7d", GRAY)


class Line(NamedTuple):
    """A line of a figure; ``name``: its entry in the legend, ``dash``: as Plotly calls it."""

    name: str
    points: Series
    color: str
    dash: str = "solid"


def learning_curve(run: RunRecord) -> go.Figure | None:
    """Top-1 of each evaluation, with the last and the best one, and the teacher's."""
    curve = run.evaluated("top1")
    if not curve:
        return None
    lines = [Line("student", curve, COLORS["student"])]
    if run.teacher_top1 is not None:
        ends = ((0.0, run.teacher_top1), (curve[-1][0], run.teacher_top1))
        lines.append(Line("teacher", ends, COLORS["teacher"], "dash"))
    where = SPLIT_WORDS[run.spec.dataset.evaluated]
    figure = _drawn(run, f"Top-1 on {where}", "after each evaluated epoch", lines, PERCENT)
    best = max(curve, key=lambda point: point[1])
    # The star over the circle, where both are one point.
    for name, point, symbol in (("last", curve[-1], "circle"), ("best", best, "star")):
        marker = {"symbol": symbol, "size": 11, "color": ORANGE if name == "best" else BLUE}
        style = {"name": name, "mode": "markers", "marker": marker}
        add_line(figure, WHOLE, (point,), name, style, _template(run, PERCENT))
    return finish(figure, run.axis.unit, "top-1")


def agreement(run: RunRecord) -> go.Figure | None:
    """Share of the images for which the student predicts the teacher's class."""
    where = SPLIT_WORDS[run.spec.dataset.evaluated]
    lines = [
        Line("train, a batch", run.series("interval", "train/agreement"), "#9ab8d3"),
        Line(where, run.evaluated("agreement"), COLORS["student"]),
    ]
    title, note = "Agreement with the teacher", "share of images with the same predicted class"
    return _figure(run, title, note, "agreement", lines, PERCENT)


def temperature_figures(run: RunRecord) -> dict[str, list[go.Figure]]:
    """By loss that logs temperatures: these, and the gap in sharpness if it logs it."""
    by_loss: dict[str, dict[str, Series]] = {}
    for metric, series in temperature_series(run.events, run.axis).items():
        by_loss.setdefault(metric.partition("/")[0], {})[metric] = thinned(series)
    return {
        loss: [_temperatures(run, loss, found), *filter(None, [_gap(run, loss)])]
        for loss, found in by_loss.items()
    }


def _temperatures(run: RunRecord, loss: str, found: dict[str, Series]) -> go.Figure:
    figure = single_panel(f"Softmax temperatures of {loss}", NOTE)
    base = base_temperature(run.spec, loss)
    if base is not None:
        places = [place for series in found.values() for place, _ in series]
        ends = ((min(places), base), (max(places), base))
        _add(figure, run, Line("base temperature", ends, GRAY, "dash"), ".3~g")
    add_temperatures(figure, WHOLE, found, unit=run.axis.unit)
    figure.update_yaxes(rangemode="tozero")
    return finish(figure, run.axis.unit, "temperature")


def _gap(run: RunRecord, loss: str) -> go.Figure | None:
    lines = [
        Line("base temperature for both", run.series("interval", f"{loss}/gap_before"), GRAY),
        Line("temperatures of each sample", run.series("interval", f"{loss}/gap_after"), BLUE),
    ]
    title, note = f"Sharpness gap of {loss}", "between teacher and student, mean of a batch"
    return _figure(run, title, note, "gap", lines, ".4~g", from_zero=True)


def calibration_error(run: RunRecord) -> go.Figure | None:
    """Expected calibration error of each evaluation, and the teacher's."""
    errors = run.evaluated("ece")
    lines = [Line("student", errors, COLORS["student"])]
    if errors and "teacher" in run.diagrams:
        error = run.diagrams["teacher"].calibration_error
        ends = ((0.0, error), (errors[-1][0], error))
        lines.append(Line("teacher", ends, COLORS["teacher"], "dash"))
    title, note = "Expected calibration error (ECE)", "of 15 bins, after each evaluated epoch"
    return _figure(run, title, note, "ECE", lines, PERCENT, from_zero=True)


def losses(run: RunRecord) -> go.Figure | None:
    """The total and its parts on train, and the cross-entropy of the evaluations."""
    names = run.spec.effective_losses().active
    lines = [Line("total", run.series("interval", "train/loss"), "#333")]
    lines += [
        Line(name, run.series("interval", f"train/{name}"), PARTS_COLORS[n % len(PARTS_COLORS)])
        for n, name in enumerate(names)
    ]
    where = SPLIT_WORDS[run.spec.dataset.evaluated]
    lines.append(Line(f"cross-entropy on {where}", run.evaluated("loss"), "#333", "dot"))
    note = "on train, each before its weight and warm-up, and their weighted total"
    figure = _figure(run, "Losses", note, "loss", lines, ".4~g")
    if figure is not None and all(value > 0 for line in lines for _, value in line.points):
        # A loss that is a hundredth of another, and has a large weight, is seen too.
        values = [value for line in lines for _, value in line.points]
        ticks = log_ticks(min(values), max(values))
        texts = [f"{tick:g}" for tick in ticks]
        figure.update_yaxes(type="log", tickvals=ticks, ticktext=texts)
    return figure


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis that shows positive values: powers of ten, or few decades finer.

    Plotly's own label the ticks in between with one digit, so that 0.5 reads 5.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1.0,) if last - first > FEW_DECADES else (1.0, 2.0, 5.0)
    return [step * 10.0**power for power in range(first, last + 1) for step in steps]


def learning_rate(run: RunRecord) -> go.Figure | None:
    """The learning rate over training."""
    lines = [Line("learning rate", run.series("interval", "train/learning_rate"), BLUE)]
    return _figure(run, "Learning rate", "of the last step of an interval", "rate", lines, ".4~g")


def speed(run: RunRecord) -> go.Figure | None:
    """Images per second over training."""
    lines = [Line("images per second", run.series("interval", "speed/images_per_s"), GREEN)]
    note = "of training steps, over all workers"
    return _figure(run, "Speed", note, "images per second", lines, ".4~g", from_zero=True)


def _figure(
    run: RunRecord,
    title: str,
    note: str,
    y_title: str,
    lines: Sequence[Line],
    number_format: str,
    *,
    from_zero: bool = False,
) -> go.Figure | None:
    """The figure of lines; None if all are empty. ``number_format``: of values, as d3 has it."""
    if not any(line.points for line in lines):
        return None
    figure = _drawn(run, title, note, lines, number_format)
    if from_zero:
        figure.update_yaxes(rangemode="tozero")
    return finish(figure, run.axis.unit, y_title)


def _drawn(
    run: RunRecord, title: str, note: str, lines: Sequence[Line], number_format: str
) -> go.Figure:
    figure = single_panel(title, note)
    for line in lines:
        _add(figure, run, line, number_format)
    if number_format == PERCENT:
        figure.update_yaxes(tickformat=PERCENT)
    return figure


def _add(figure: go.Figure, run: RunRecord, line: Line, number_format: str) -> None:
    style = line_style(line.name, line.color, 2)
    style["line"] |= {"dash": line.dash}
    if len(line.points) <= FEW_POINTS and line.dash == "solid":
        style |= {"mode": "lines+markers", "marker": {"size": 5, "color": line.color}}
    add_line(figure, WHOLE, thinned(line.points), line.name, style, _template(run, number_format))


def _template(run: RunRecord, number_format: str) -> str:
    return f"{run.axis.unit} %{{x:.6~g}}, %{{y:{number_format}}}"
