"""The pictures of a sweep in which color represents the metric."""

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
from service.sweep.pages.picture_axes import Scale, set_up_axis
from service.sweep.pages.picture_style import (
    FAINT,
    INK,
    MARKER_STYLES,
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
MIN_FITTED_TRIALS = 6
MAX_FITTED_TRIALS = 1000
"""The fit's cost grows with the cube of the number of trials; of more, every n-th is used."""
SMOOTHING_PER_TRIAL = 0.01
GRID_POINTS = 80
NUM_LEVELS = 24
BEST_WIDTH, FINISHED_WIDTH, OTHER_WIDTH = 4.0, 2.0, 1.0
AXIS_LABEL_WIDTH = 18
ABSENT = -0.16
"""Height of a missing value on an axis that extends from 0 to 1."""


def draw_temperature_alpha_map(data: PictureData) -> Figure | None:
    """The metric by base temperature and alpha; None if either was not searched."""
    by_name = {scale.name: scale for scale in data.scales if not scale.categories}
    if TEMPERATURE not in by_name or ALPHA not in by_name:
        return None
    x_scale, y_scale = by_name[TEMPERATURE], by_name[ALPHA]
    positions = {
        record.number: (
            x_scale.coordinate(record.params[TEMPERATURE]),
            y_scale.coordinate(record.params[ALPHA]),
        )
        for record in data.records
        if TEMPERATURE in record.params and ALPHA in record.params
    }
    figure = titled_figure(f"{data.metric.label} by base temperature and alpha", data, 8.0, 6.0)
    axes = figure.subplots()
    plain(axes)
    set_up_axis(axes, "x", x_scale)
    set_up_axis(axes, "y", y_scale)
    axes.set_xlabel(x_scale.full_label)
    axes.set_ylabel(y_scale.full_label)
    shades = score_shades(data)
    _fitted_background(axes, data, (x_scale, y_scale), positions, shades)
    _shaded_marks(axes, data, positions, shades)
    if data.best is not None and data.best.number in positions:
        mark_best(axes, *positions[data.best.number])
    if data.scores():
        shades.add_bar(figure, axes, data.metric)
    add_legend(figure, data, color=INK)
    return figure


def _shaded_marks(
    axes: Axes, data: PictureData, positions: dict[int, tuple[float, float]], shades: Shades
) -> None:
    for state in MARKER_STYLES:
        records = [record for record in data.of_state(state) if record.number in positions]
        scored = [r for r in records if shown_score(r) is not None]
        others = [r for r in records if shown_score(r) is None]
        if scored:
            colors = shades.of(score for r in scored if (score := shown_score(r)) is not None)
            mark(axes, data, state, [positions[r.number] for r in scored], shades=colors)
        if others:
            mark(axes, data, state, [positions[r.number] for r in others])


def _fitted_background(
    axes: Axes,
    data: PictureData,
    scales: tuple[Scale, Scale],
    positions: dict[int, tuple[float, float]],
    shades: Shades,
) -> None:
    """Draw a smooth surface fitted to the finished trials, inside their convex hull."""
    finished = [
        (positions[record.number], score)
        for record in data.of_state("finished")
        if record.number in positions and (score := shown_score(record)) is not None
    ]
    finished = finished[:: math.ceil(len(finished) / MAX_FITTED_TRIALS) or 1]
    x_scale, y_scale = scales
    points = np.array([(x_scale.to_fraction(x), y_scale.to_fraction(y)) for (x, y), _ in finished])
    scores = np.array([score for _, score in finished])
    if len(finished) < MIN_FITTED_TRIALS or scores.min() == scores.max() or _are_collinear(points):
        return
    _draw_surface(axes, scales, points, scores, shades)
    note = "background: smooth fit to the finished trials"
    axes.set_title(note, fontsize=8, color=FAINT, loc="right")


def _are_collinear(points: NDArray[np.float64]) -> bool:
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
    hull = [
        (x_scale.from_fraction(x), y_scale.from_fraction(y))
        for x, y in points[ConvexHull(points).vertices]
    ]
    filled = axes.contourf(
        [x_scale.from_fraction(fraction) for fraction in side],
        [y_scale.from_fraction(fraction) for fraction in side],
        surface.reshape(GRID_POINTS, GRID_POINTS),
        levels=np.linspace(scores.min(), scores.max(), NUM_LEVELS),
        cmap=shades.colors,
        norm=shades.norm,
        alpha=0.45,
        zorder=0,
    )
    filled.set_clip_path(Polygon(hull, transform=axes.transData))


def draw_parallel_coordinates(data: PictureData) -> Figure | None:
    """Each trial as a line through all parameters and the metric; None without parameters."""
    if not data.scales:
        return None
    scales = (*data.scales, data.metric)
    title = f"Parameters and {data.metric.label}, one line per trial"
    figure = titled_figure(title, data, max(7.5, 1.5 * len(scales) + 1.0), 5.6)
    axes = figure.subplots()
    shades = score_shades(data)
    _draw_vertical_axes(axes, data, scales)
    _draw_trial_lines(axes, data, shades)
    if data.scores():
        shades.add_bar(figure, axes, data.metric)
    _add_line_legend(figure, data)
    return figure


def _draw_vertical_axes(axes: Axes, data: PictureData, scales: Sequence[Scale]) -> None:
    axes.spines[:].set_visible(False)
    axes.set(xlim=(-0.25, len(scales) - 0.6), ylim=(ABSENT - 0.08, 1.04), yticks=[])
    names = [scale.wrapped_label(AXIS_LABEL_WIDTH) for scale in scales]
    axes.set_xticks(range(len(scales)), names, fontsize=9)
    axes.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    for position, scale in enumerate(scales):
        axes.plot([position, position], [0, 1], color=INK, linewidth=1, zorder=4)
        is_metric = position == len(scales) - 1
        if not is_metric or data.scores():
            for coordinate, text in scale.ticks():
                _label(axes, position, scale.to_fraction(coordinate), text)
        has_missing = (
            any(shown_score(record) is None for record in data.records)
            if is_metric
            else any(scale.name not in record.params for record in data.records)
        )
        if has_missing:
            _label(axes, position, ABSENT, "failed or\nno score" if is_metric else "not used")


def _label(axes: Axes, position: int, height: float, text: str) -> None:
    axes.plot(position, height, marker="_", markersize=6, color=INK, zorder=4)
    backing = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
    axes.text(position + 0.05, height, text, fontsize=8, va="center", bbox=backing, zorder=5)


def _heights(record: TrialRecord, data: PictureData) -> list[tuple[float, float]]:
    heights = [
        scale.to_fraction(scale.coordinate(record.params[scale.name]))
        if scale.name in record.params
        else ABSENT
        for scale in data.scales
    ]
    score = shown_score(record)
    heights.append(ABSENT if score is None else data.metric.to_fraction(score))
    return [(float(position), height) for position, height in enumerate(heights)]


def _draw_trial_lines(axes: Axes, data: PictureData, shades: Shades) -> None:
    thinning = 0.45 if data.is_crowded else 1.0
    for record in best_first(data.records, data.maximizes)[::-1]:
        score, is_finished = shown_score(record), record.state == "finished"
        x, y = zip(*_heights(record, data), strict=True)
        if score is None:
            color = MARKER_STYLES["failed"].color
            axes.plot(x, y, color=color, linewidth=thinning, linestyle="dotted", zorder=1)
        elif record is data.best:
            axes.plot(x, y, color=shades.of([score])[0], linewidth=BEST_WIDTH, zorder=3)
            mark_best(axes, x[-1], y[-1])
        else:
            axes.plot(
                x,
                y,
                color=shades.of([score])[0],
                linewidth=thinning * (FINISHED_WIDTH if is_finished else OTHER_WIDTH),
                alpha=thinning * (1.0 if is_finished else 0.6),
                zorder=2.5 if is_finished else 2.0,
            )


def _add_line_legend(figure: Figure, data: PictureData) -> None:
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
        color = MARKER_STYLES["failed"].color
        handles.append(Line2D([], [], color=color, linestyle="dotted", label="failed or no score"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
