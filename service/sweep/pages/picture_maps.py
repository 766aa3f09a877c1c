"""The pictures of a sweep in which the color is the metric."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator
from scipy.spatial import ConvexHull

from service.sweep.analysis import TrialRecord, best_first
from service.sweep.pages.picture_axes import Scale, lay_axis
from service.sweep.pages.picture_style import (
    FAINT,
    INK,
    LOOKS,
    PictureData,
    Shades,
    add_legend,
    mark,
    mark_best,
    plain,
    score_shades,
    shown_score,
    titled_figure,
)

TEMPERATURE = "method.base_temperature"
ALPHA = "method.alpha"
FITTED_FROM = 6
FITTED_TO = 1000
"""A surface through more finished trials looks the same and takes long; every n-th is used."""
SMOOTHING_PER_TRIAL = 0.01
GRID_POINTS = 80
NUM_LEVELS = 24
BEST_WIDTH, FINISHED_WIDTH, OTHER_WIDTH = 4.0, 2.0, 1.0
NARROW = 18
ABSENT = -0.16
"""Where a line crosses an axis on which it has no value; the axis itself is from 0 to 1."""


def draw_temperature_alpha_map(data: PictureData) -> Figure | None:
    """The metric over the method's two numbers; None where either was not searched."""
    by_name = {scale.name: scale for scale in data.scales if not scale.categories}
    if TEMPERATURE not in by_name or ALPHA not in by_name:
        return None
    x_scale, y_scale = by_name[TEMPERATURE], by_name[ALPHA]
    placed = {
        record.number: (
            x_scale.place(record.params[TEMPERATURE]),
            y_scale.place(record.params[ALPHA]),
        )
        for record in data.records
        if TEMPERATURE in record.params and ALPHA in record.params
    }
    figure = titled_figure(f"{data.metric.label} by base temperature and alpha", data, 8.0, 6.0)
    axes = figure.subplots()
    plain(axes)
    lay_axis(axes, "x", x_scale)
    lay_axis(axes, "y", y_scale)
    axes.set_xlabel(x_scale.full_label)
    axes.set_ylabel(y_scale.full_label)
    shades = score_shades(data)
    _fitted_background(axes, data, (x_scale, y_scale), placed, shades)
    _shaded_marks(axes, data, placed, shades)
    if data.best is not None and data.best.number in placed:
        mark_best(axes, *placed[data.best.number])
    if data.scores():
        shades.add_bar(figure, axes, data.metric)
    add_legend(figure, data, color=INK)
    return figure


def _shaded_marks(
    axes: Axes, data: PictureData, placed: dict[int, tuple[float, float]], shades: Shades
) -> None:
    for state in LOOKS:
        records = [record for record in data.of_state(state) if record.number in placed]
        scored = [r for r in records if shown_score(r) is not None]
        others = [r for r in records if shown_score(r) is None]
        if scored:
            colors = shades.of(score for r in scored if (score := shown_score(r)) is not None)
            mark(axes, data, state, [placed[r.number] for r in scored], shades=colors)
        if others:
            mark(axes, data, state, [placed[r.number] for r in others])


def _fitted_background(
    axes: Axes,
    data: PictureData,
    scales: tuple[Scale, Scale],
    placed: dict[int, tuple[float, float]],
    shades: Shades,
) -> None:
    """A smooth surface through the finished trials, drawn between them only, not beyond."""
    finished = [
        (placed[record.number], score)
        for record in data.of_state("finished")
        if record.number in placed and (score := shown_score(record)) is not None
    ]
    finished = finished[:: math.ceil(len(finished) / FITTED_TO) or 1]
    x_scale, y_scale = scales
    points = np.array([(x_scale.share(x), y_scale.share(y)) for (x, y), _ in finished])
    scores = np.array([score for _, score in finished])
    if len(finished) < FITTED_FROM or scores.min() == scores.max() or _are_on_a_line(points):
        return
    _draw_surface(axes, scales, points, scores, shades)
    note = "background: smooth fit to the finished trials"
    axes.set_title(note, fontsize=8, color=FAINT, loc="right")


def _are_on_a_line(points: NDArray[np.float64]) -> bool:
    return bool(np.linalg.matrix_rank(points - points.mean(axis=0), tol=0.02) < 2)


def _draw_surface(
    axes: Axes,
    scales: tuple[Scale, Scale],
    points: NDArray[np.float64],
    scores: NDArray[np.float64],
    shades: Shades,
) -> None:
    x_scale, y_scale = scales
    fit = RBFInterpolator(points, scores, smoothing=SMOOTHING_PER_TRIAL * len(points))
    side = np.linspace(0.0, 1.0, GRID_POINTS)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    surface = np.clip(fit(grid), scores.min(), scores.max())
    hull = [(x_scale.at(x), y_scale.at(y)) for x, y in points[ConvexHull(points).vertices]]
    filled = axes.contourf(
        [x_scale.at(share) for share in side],
        [y_scale.at(share) for share in side],
        surface.reshape(GRID_POINTS, GRID_POINTS),
        levels=np.linspace(scores.min(), scores.max(), NUM_LEVELS),
        cmap=shades.colors,
        norm=shades.norm,
        alpha=0.45,
        zorder=0,
    )
    filled.set_clip_path(Polygon(hull, transform=axes.transData))


def draw_parallel_coordinates(data: PictureData) -> Figure | None:
    """Every trial as a line over all parameters to the metric; None without parameters."""
    if not data.scales:
        return None
    scales = (*data.scales, data.metric)
    what = f"Parameters and {data.metric.label}, a line for each setting"
    figure = titled_figure(what, data, max(7.5, 1.5 * len(scales) + 1.0), 5.6)
    axes = figure.subplots()
    shades = score_shades(data)
    _draw_uprights(axes, data, scales)
    _draw_trial_lines(axes, data, shades)
    if data.scores():
        shades.add_bar(figure, axes, data.metric)
    _explain_lines(figure, data)
    return figure


def _draw_uprights(axes: Axes, data: PictureData, scales: Sequence[Scale]) -> None:
    axes.spines[:].set_visible(False)
    axes.set(xlim=(-0.25, len(scales) - 0.6), ylim=(ABSENT - 0.08, 1.04), yticks=[])
    names = [scale.wrapped_label(NARROW) for scale in scales]
    axes.set_xticks(range(len(scales)), names, fontsize=9)
    axes.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    for position, scale in enumerate(scales):
        axes.plot([position, position], [0, 1], color=INK, linewidth=1, zorder=4)
        is_metric = position == len(scales) - 1
        if not is_metric or data.scores():
            for place, text in scale.ticks():
                _label(axes, position, scale.share(place), text)
        lacking = (
            any(shown_score(record) is None for record in data.records)
            if is_metric
            else any(scale.name not in record.params for record in data.records)
        )
        if lacking:
            _label(axes, position, ABSENT, "failed or\nno score" if is_metric else "not used")


def _label(axes: Axes, position: int, height: float, text: str) -> None:
    axes.plot(position, height, marker="_", markersize=6, color=INK, zorder=4)
    backing = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
    axes.text(position + 0.05, height, text, fontsize=8, va="center", bbox=backing, zorder=5)


def _heights(record: TrialRecord, data: PictureData) -> list[tuple[float, float]]:
    heights = [
        scale.share(scale.place(record.params[scale.name]))
        if scale.name in record.params
        else ABSENT
        for scale in data.scales
    ]
    score = shown_score(record)
    heights.append(ABSENT if score is None else data.metric.share(score))
    return [(float(position), height) for position, height in enumerate(heights)]


def _draw_trial_lines(axes: Axes, data: PictureData, shades: Shades) -> None:
    thinner = 0.45 if data.is_crowded else 1.0
    for record in best_first(data.records, data.maximizes)[::-1]:
        score, is_finished = shown_score(record), record.state == "finished"
        x, y = zip(*_heights(record, data), strict=True)
        if score is None:
            color = LOOKS["failed"].color
            axes.plot(x, y, color=color, linewidth=thinner, linestyle="dotted", zorder=1)
        elif record is data.best:
            axes.plot(x, y, color=shades.of([score])[0], linewidth=BEST_WIDTH, zorder=3)
            mark_best(axes, x[-1], y[-1])
        else:
            axes.plot(
                x,
                y,
                color=shades.of([score])[0],
                linewidth=thinner * (FINISHED_WIDTH if is_finished else OTHER_WIDTH),
                alpha=thinner * (1.0 if is_finished else 0.6),
                zorder=2.5 if is_finished else 2.0,
            )


def _explain_lines(figure: Figure, data: PictureData) -> None:
    handles = []
    if data.best is not None:
        name = f"best (trial {data.best.number})"
        handles.append(Line2D([], [], color=INK, linewidth=BEST_WIDTH, label=name))
    others = [r for r in data.records if r is not data.best and shown_score(r) is not None]
    if any(record.state == "finished" for record in others):
        handles.append(Line2D([], [], color=INK, linewidth=FINISHED_WIDTH, label="finished"))
    if any(record.state != "finished" for record in others):
        name = "stopped early or running"
        handles.append(Line2D([], [], color=INK, linewidth=OTHER_WIDTH, label=name))
    if len(data.scores()) < len(data.records):
        color = LOOKS["failed"].color
        handles.append(Line2D([], [], color=color, linestyle="dotted", label="failed or no score"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
