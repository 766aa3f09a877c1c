"""The pictures of a sweep: metric by parameter, maps, learning curves and importances.

They use Matplotlib's objects instead of pyplot, whose global state is not thread-safe.
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
from service.sweep.pages.picture_axes import Scale, metric_scale, parameter_scales, set_up_axis
from service.sweep.pages.picture_maps import draw_parallel_coordinates, draw_temperature_alpha_map
from service.sweep.pages.picture_style import (
    BEST_LINE,
    FAINT,
    MARKER_STYLES,
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
LABEL_WIDTH = 36
GOLDEN_RATIO = 0.6180339887498949
DOTS_PER_INCH = 110
MIN_TRIALS_FOR_RELIABLE_SHARES = 50
"""With fewer trials, fANOVA's forest does not separate the parameters' shares reliably."""


class SweepFacts(NamedTuple):
    """The input of the pictures.

    ``metric``: its name, such as held_out/top1. ``log_params``: paths searched on a log scale.
    ``importances``: share of the metric's variance by path, after ``importance_epoch`` epochs; may
    be empty. ``front``: the Pareto front of metric and time, fastest first; None unless time is
    minimized.
    """

    records: Sequence[TrialRecord]
    metric: str
    maximizes: bool
    log_params: frozenset[str]
    importances: Mapping[str, float]
    importance_epoch: int
    front: Sequence[TrialRecord] | None = None


def draw_all(facts: SweepFacts) -> dict[str, Figure]:
    """Draw every picture for which there is data; by name, most informative first."""
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
    set_up_axis(axes, "x", scale)
    set_up_axis(axes, "y", data.metric, below=0.14)
    axes.set_xlabel(scale.wrapped_label(LABEL_WIDTH), fontsize=9)
    if scale.categories and sum(len(label) for _, label in scale.ticks()) > 30:
        for label in axes.get_xticklabels():
            label.set(rotation=30, horizontalalignment="right", rotation_mode="anchor")
    users = [record for record in data.records if scale.name in record.params]
    for state in MARKER_STYLES:
        scored, others = [], []
        for record in users:
            if record.state != state:
                continue
            x, score = _jittered_coordinate(scale, record), shown_score(record)
            if score is None:
                others.append((x, BOTTOM))
            else:
                scored.append((x, score))
        if scored:
            mark(axes, data, state, scored)
        if others:
            mark(axes, data, state, others, on_bottom_edge=True)
    if data.best in users and (best := shown_score(data.best)) is not None:
        mark_best(axes, _jittered_coordinate(scale, data.best), best)
    if num_unused := len(data.records) - len(users):
        note = f"not used by {num_unused} trial{'' if num_unused == 1 else 's'}"
        axes.set_title(note, fontsize=8, color=FAINT, loc="right")
    if not data.scores():
        _note_no_score(axes)


def _note_no_score(axes: Axes) -> None:
    axes.set_yticks([])
    axes.text(0.5, 0.5, "no score", transform=axes.transAxes, ha="center", color=FAINT)


def _jittered_coordinate(scale: Scale, record: TrialRecord) -> float:
    """The trial's coordinate; in a category, the trials are spread evenly by their numbers."""
    coordinate = scale.coordinate(record.params[scale.name])
    if not scale.categories:
        return coordinate
    return coordinate + 0.5 * ((record.number * GOLDEN_RATIO) % 1.0 - 0.5)


def _metric_by_time(data: PictureData, front: Sequence[TrialRecord]) -> Figure | None:
    """Finished trials by training time and metric, and their Pareto front."""
    positions = {
        record.number: (record.seconds, score)
        for record in data.of_state("finished")
        if (score := shown_score(record)) is not None
    }
    if not positions:
        return None
    times = [seconds for seconds, _ in positions.values()]
    figure = titled_figure(f"{data.metric.label} by training time", data, 8.0, 5.2)
    axes = figure.subplots()
    plain(axes)
    set_up_axis(axes, "x", Scale("seconds", min(times), max(times)))
    set_up_axis(axes, "y", metric_scale((y for _, y in positions.values()), data.metric.name))
    axes.set(xlabel="training time (s)", ylabel=data.metric.label)
    mark(axes, data, "finished", list(positions.values()))
    corners = [positions[record.number] for record in front]
    axes.plot(*zip(*corners, strict=True), color=BEST_LINE, drawstyle="steps-post")
    note = "line: Pareto front"
    axes.set_title(note, fontsize=8, color=FAINT, loc="right")
    for record in front:
        name = f"trial {record.number}"
        axes.annotate(
            name, positions[record.number], (4, 5), textcoords="offset points", fontsize=8
        )
    if data.best is not None and data.best.number in positions:
        mark_best(axes, *positions[data.best.number])
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
    set_up_axis(axes, "y", metric)
    last = max(epoch for points in curves.values() for epoch, _ in points)
    axes.set(xlim=(0, max(last, 1) * 1.04), xlabel="epochs done", ylabel=metric.label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for state, style in MARKER_STYLES.items():
        numbers = [record.number for record in data.of_state(state) if record.number in curves]
        lines = [
            curves[number] for number in numbers if data.best is None or number != data.best.number
        ]
        strength = 0.45 if state == "stopped" else 0.85
        axes.add_collection(
            LineCollection(
                lines,
                colors=style.color,
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
    finite = [(path, share) for path, share in importances.items() if math.isfinite(share)]
    if not finite:
        return None
    ranked = sorted(finite, key=lambda item: item[1])
    labels = [Scale(path, 0.0, 1.0).wrapped_label(LABEL_WIDTH) for path, _ in ranked]
    shares = [share for _, share in ranked]
    title = f"Share of the variance of {data.metric.name} after {epoch} epochs by parameter"
    figure = titled_figure(title, data, 7.5, 1.4 + 0.4 * len(ranked))
    axes = figure.subplots()
    plain(axes)
    axes.grid(visible=False, axis="y")
    bars = axes.barh(
        labels, [100 * share for share in shares], color=MARKER_STYLES["finished"].color
    )
    axes.bar_label(bars, [f"{share:.0%}" for share in shares], padding=3, fontsize=9)
    axes.set_xlim(0, max(100 * max(shares), 1) * 1.1)
    axes.set_xlabel("share of variance (%)", fontsize=9)
    num_compared = sum(epoch in dict(record.curve) for record in data.records)
    if num_compared < MIN_TRIALS_FOR_RELIABLE_SHARES:
        note = f"a rough estimate, from {num_compared} trials only"
        axes.set_title(note, fontsize=8, color=FAINT, loc="right")
    return figure
