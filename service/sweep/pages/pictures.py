"""The pictures of a sweep: which settings were good, and why one may believe it.

Drawn with matplotlib's objects alone, so that a driver's threads share no state of pyplot's.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from service.sweep.analysis import TrialRecord, best_so_far
from service.sweep.pages.picture_axes import Scale, lay_axis, metric_scale, parameter_scales
from service.sweep.pages.picture_maps import draw_parallel_coordinates, draw_temperature_alpha_map
from service.sweep.pages.picture_style import (
    BEST_LINE,
    FAINT,
    LOOKS,
    PictureData,
    add_legend,
    mark,
    mark_best,
    plain,
    shown_score,
    titled_figure,
)

__all__ = ["SweepFacts", "draw_all", "png"]

BOTTOM = 0.035
WIDE = 36
GOLDEN = 0.6180339887498949
DOTS_PER_INCH = 110
SURE_FROM = 50
"""With fewer trials fANOVA's forest cannot separate the shares of the parameters."""


class SweepFacts(NamedTuple):
    """What is drawn.

    ``metric``: its name, such as held_out_top1. ``log_params``: paths searched on a log scale.
    ``importances``: share of the metric's variance by path, after ``importance_epoch`` epochs; may
    be empty. ``front``: trials that no other one beats in metric and time both, quickest first;
    None unless time is minimized.
    """

    records: Sequence[TrialRecord]
    metric: str
    maximizes: bool
    log_params: frozenset[str]
    importances: Mapping[str, float]
    importance_epoch: int
    front: Sequence[TrialRecord] | None = None


def draw_all(facts: SweepFacts) -> dict[str, Figure]:
    """Every picture that there is data for, by name, the most informative first."""
    data = PictureData(
        records=facts.records,
        scales=parameter_scales(facts.records, facts.log_params),
        metric=metric_scale(
            (score for r in facts.records if (score := shown_score(r)) is not None), facts.metric
        ),
        maximizes=facts.maximizes,
        best=best_so_far(facts.records, facts.maximizes),
    )
    figures = {
        "metric_by_time": None if facts.front is None else _metric_by_time(data, facts.front),
        "metric_by_parameter": _metric_by_parameter(data),
        "temperature_alpha_map": draw_temperature_alpha_map(data),
        "parallel_coordinates": draw_parallel_coordinates(data),
        "learning_curves": _learning_curves(data),
        "importance": _importance(data, facts.importances, facts.importance_epoch),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def _metric_by_parameter(data: PictureData) -> Figure | None:
    if not data.scales:
        return None
    columns = math.ceil(math.sqrt(len(data.scales)))
    rows = math.ceil(len(data.scales) / columns)
    figure = titled_figure(
        f"{data.metric.label} at the last epoch reached, by parameter",
        data,
        max(7.5, 3.4 * columns),
        1.2 + 2.8 * rows,
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(data.scales):
            axes.remove()
            continue
        _parameter_panel(axes, data, data.scales[number])
        if number % columns == 0:
            axes.set_ylabel(data.metric.label, fontsize=9)
    add_legend(figure, data)
    return figure


def _parameter_panel(axes: Axes, data: PictureData, scale: Scale) -> None:
    plain(axes)
    lay_axis(axes, "x", scale)
    lay_axis(axes, "y", data.metric, below=0.14)
    axes.set_xlabel(scale.wrapped_label(WIDE), fontsize=9)
    if scale.categories and sum(len(label) for _, label in scale.ticks()) > 30:
        for label in axes.get_xticklabels():
            label.set(rotation=30, horizontalalignment="right", rotation_mode="anchor")
    users = [record for record in data.records if scale.name in record.params]
    for state in LOOKS:
        scored, others = [], []
        for record in users:
            if record.state != state:
                continue
            x, score = _spread_place(scale, record), shown_score(record)
            if score is None:
                others.append((x, BOTTOM))
            else:
                scored.append((x, score))
        if scored:
            mark(axes, data, state, scored)
        if others:
            mark(axes, data, state, others, on_bottom_edge=True)
    if data.best in users and (best := shown_score(data.best)) is not None:
        mark_best(axes, _spread_place(scale, data.best), best)
    if strangers := len(data.records) - len(users):
        note = f"not used by {strangers} trial{'' if strangers == 1 else 's'}"
        axes.set_title(note, fontsize=8, color=FAINT, loc="right")
    if not data.scores():
        _say_unmeasured(axes)


def _say_unmeasured(axes: Axes) -> None:
    axes.set_yticks([])
    axes.text(0.5, 0.5, "no score", transform=axes.transAxes, ha="center", color=FAINT)


def _spread_place(scale: Scale, record: TrialRecord) -> float:
    """The trial's coordinate; within a category's strip, trials are spread evenly by number."""
    place = scale.place(record.params[scale.name])
    if not scale.categories:
        return place
    return place + 0.5 * ((record.number * GOLDEN) % 1.0 - 0.5)


def _metric_by_time(data: PictureData, front: Sequence[TrialRecord]) -> Figure | None:
    """Finished trials by their two aims, and the line of those that are best in one or both."""
    placed = {
        record.number: (record.seconds, score)
        for record in data.of_state("finished")
        if (score := shown_score(record)) is not None
    }
    if not placed:
        return None
    times = [seconds for seconds, _ in placed.values()]
    figure = titled_figure(f"{data.metric.label} against time in training", data, 8.0, 5.2)
    axes = figure.subplots()
    plain(axes)
    lay_axis(axes, "x", Scale("seconds", min(times), max(times)))
    lay_axis(axes, "y", metric_scale((y for _, y in placed.values()), data.metric.name))
    axes.set(xlabel="time in training (s)", ylabel=data.metric.label)
    mark(axes, data, "finished", list(placed.values()))
    corners = [placed[record.number] for record in front]
    axes.plot(*zip(*corners, strict=True), color=BEST_LINE, drawstyle="steps-post")
    note = "line: trials that no other one beats in both"
    axes.set_title(note, fontsize=8, color=FAINT, loc="right")
    for record in front:
        name = f"trial {record.number}"
        axes.annotate(name, placed[record.number], (4, 5), textcoords="offset points", fontsize=8)
    if data.best is not None and data.best.number in placed:
        mark_best(axes, *placed[data.best.number])
    add_legend(figure, data)
    return figure


def _learning_curves(data: PictureData) -> Figure | None:
    curves = {
        record.number: points
        for record in data.records
        if (points := [point for point in record.curve if math.isfinite(point[1])])
    }
    if not curves:
        return None
    metric = metric_scale((y for points in curves.values() for _, y in points), data.metric.name)
    figure = titled_figure(f"{metric.label} by epoch", data, 8.5, 5.4)
    axes = figure.subplots()
    plain(axes)
    lay_axis(axes, "y", metric)
    last = max(epoch for points in curves.values() for epoch, _ in points)
    axes.set(xlim=(0, max(last, 1) * 1.04), xlabel="epochs done", ylabel=metric.label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for state, look in LOOKS.items():
        numbers = [record.number for record in data.of_state(state) if record.number in curves]
        lines = [
            curves[number] for number in numbers if data.best is None or number != data.best.number
        ]
        strength = 0.45 if state == "stopped" else 0.85
        axes.add_collection(
            LineCollection(
                lines,
                colors=look.color,
                linewidths=0.6 if data.is_crowded else 1.3,
                alpha=strength * (0.5 if data.is_crowded else 1.0),
            )
        )
        mark(axes, data, state, [line[-1] for line in lines])
    if data.best is not None and data.best.number in curves:
        points = curves[data.best.number]
        axes.plot(*zip(*points, strict=True), color=BEST_LINE, linewidth=3, zorder=5)
        mark_best(axes, *points[-1])
    add_legend(figure, data)
    return figure


def _importance(data: PictureData, importances: Mapping[str, float], epoch: int) -> Figure | None:
    known = [(path, share) for path, share in importances.items() if math.isfinite(share)]
    if not known:
        return None
    ranked = sorted(known, key=lambda item: item[1])
    labels = [Scale(path, 0.0, 1.0).wrapped_label(WIDE) for path, _ in ranked]
    shares = [share for _, share in ranked]
    what = f"Share of the variance of {data.metric.name} after {epoch} epochs by parameter"
    figure = titled_figure(what, data, 7.5, 1.4 + 0.4 * len(ranked))
    axes = figure.subplots()
    plain(axes)
    axes.grid(visible=False, axis="y")
    bars = axes.barh(labels, [100 * share for share in shares], color=LOOKS["finished"].color)
    axes.bar_label(bars, [f"{share:.0%}" for share in shares], padding=3, fontsize=9)
    axes.set_xlim(0, max(100 * max(shares), 1) * 1.1)
    axes.set_xlabel("share of variance (%)", fontsize=9)
    num_compared = sum(epoch in dict(record.curve) for record in data.records)
    if num_compared < SURE_FROM:
        note = f"a rough guess, from {num_compared} trials only"
        axes.set_title(note, fontsize=8, color=FAINT, loc="right")
    return figure
