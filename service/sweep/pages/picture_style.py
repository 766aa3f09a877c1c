"""The style of a sweep's pictures: a marker for each state, a color for each score."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from service.sweep.analysis import STATE_WORDS, TrialRecord, counts_text, finite_score
from service.sweep.pages.picture_axes import Scale
from service.trials.source import TrialState

INK = "#333333"
FAINT = "#999999"
BEST_FACE = "#fde725"
BEST_LINE = "#440154"
MANY_TRIALS = 150
MIN_FINISHED_FOR_RANGE = 3
"""With fewer finished trials, the color range covers the scores of all trials."""
MIN_SCORES_FOR_CLIPPING = 10
"""From this many scores, the worst tenth has one color: outliers would compress the range."""

EXTENDS: dict[tuple[bool, bool], Literal["neither", "min", "max", "both"]] = {
    (False, False): "neither",
    (True, False): "min",
    (False, True): "max",
    (True, True): "both",
}


class MarkerStyle(NamedTuple):
    """The marker of a state."""

    marker: str
    color: str
    is_filled: bool


MARKER_STYLES: dict[TrialState, MarkerStyle] = {
    "finished": MarkerStyle("o", "#31688e", True),
    "stopped": MarkerStyle("v", "#35a07a", False),
    "running": MarkerStyle("s", "#777777", False),
    "waiting": MarkerStyle("D", "#777777", False),
    "failed": MarkerStyle("x", "#d55e00", False),
}


class PictureData(NamedTuple):
    """The data of all pictures."""

    records: Sequence[TrialRecord]
    scales: tuple[Scale, ...]
    metric: Scale
    maximizes: bool
    best: TrialRecord | None

    @property
    def is_crowded(self) -> bool:
        """Whether markers must be small and translucent because there are many trials."""
        return len(self.records) > MANY_TRIALS

    def of_state(self, state: TrialState) -> list[TrialRecord]:
        """The trials in this state."""
        return [record for record in self.records if record.state == state]

    def scores(self) -> list[float]:
        """The scores of the trials that have one and did not fail."""
        return [score for record in self.records if (score := shown_score(record)) is not None]


def shown_score(record: TrialRecord) -> float | None:
    """The score that pictures show; None for a failed trial."""
    return None if record.state == "failed" else finite_score(record)


def titled_figure(title: str, data: PictureData, width: float, height: float) -> Figure:
    """An empty figure with a title and the number of trials; sizes are in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(f"{title}\n{counts_text(data.records)}", fontsize=11, color=INK)
    return figure


def plain(axes: Axes) -> None:
    """Remove the top and right spines, and add a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, color=FAINT)


def mark(
    axes: Axes,
    data: PictureData,
    state: TrialState,
    points: Sequence[tuple[float, float]],
    shades: Sequence[tuple[float, ...]] | None = None,
    on_bottom_edge: bool = False,
) -> PathCollection:
    """Draw markers for the trials in one state.

    ``shades``: a color for each point; without it, all have the state's color. With
    ``on_bottom_edge``, the points' second coordinates are fractions of the axes' height.
    """
    style = MARKER_STYLES[state]
    colors = shades if shades is not None else style.color
    if style.marker == "x":
        paint: dict[str, Any] = {"color": colors}
    else:
        paint = {"facecolors": colors if style.is_filled else "white", "edgecolors": colors}
    return axes.scatter(
        [x for x, _ in points],
        [y for _, y in points],
        s=14 if data.is_crowded else 38,
        marker=style.marker,
        linewidths=0.8 if data.is_crowded else 1.3,
        alpha=0.7 if data.is_crowded else 0.9,
        label=STATE_WORDS[state],
        transform=axes.get_xaxis_transform() if on_bottom_edge else axes.transData,
        clip_on=not on_bottom_edge,
        zorder=3,
        **paint,
    )


def mark_best(axes: Axes, x: float, y: float) -> None:
    """Draw a star at the best trial."""
    axes.add_line(_star([x], [y]))


def add_legend(figure: Figure, data: PictureData, color: str | None = None) -> None:
    """Add a legend of the markers under the picture.

    ``color``: replaces the states' colors, except that of failed trials.
    """
    handles = [
        _handle(MARKER_STYLES[state], words, None if state == "failed" else color)
        for state, words in STATE_WORDS.items()
        if data.of_state(state)
    ]
    if data.best is not None:
        handles.append(_star([], [], f"best (trial {data.best.number})"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=9)


def _handle(style: MarkerStyle, words: str, color: str | None) -> Line2D:
    color = color or style.color
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=style.marker,
        markeredgecolor=color,
        markerfacecolor=color if style.is_filled else "white",
        label=words,
    )


def _star(x: list[float], y: list[float], label: str = "best") -> Line2D:
    return Line2D(
        x,
        y,
        linestyle="none",
        marker="*",
        markersize=14,
        markerfacecolor=BEST_FACE,
        markeredgecolor="black",
        markeredgewidth=0.9,
        label=label,
        zorder=6,
    )


class Shades(NamedTuple):
    """Maps scores to colors; darker is better, so that the best stand out on white."""

    norm: Normalize
    colors: Colormap
    scale: Scale

    def of(self, scores: Iterable[float]) -> list[tuple[float, ...]]:
        """The color of each score."""
        return [tuple(rgba) for rgba in self.colors(self.norm(np.array(list(scores))))]

    def add_bar(self, figure: Figure, axes: Axes, metric: Scale) -> None:
        """Add the color bar; a pointed end stands for all scores beyond it."""
        beyond_low, beyond_high = self.scale.low > metric.low, self.scale.high < metric.high
        extend = EXTENDS[beyond_low, beyond_high]
        mappable = ScalarMappable(self.norm, self.colors)
        bar = figure.colorbar(mappable, ax=axes, extend=extend, pad=0.02, aspect=30)
        coordinates, labels = zip(*self.scale.ticks(), strict=True)
        bar.set_ticks(coordinates, labels=labels)
        bar.minorticks_off()
        bar.ax.tick_params(labelsize=9)
        bar.set_label(metric.label, fontsize=9)


def score_shades(data: PictureData) -> Shades:
    """The colors of pictures in which color represents the metric.

    Their range is that of the finished trials: scores of trials stopped early are mostly worse and
    would compress it.
    """
    metric = data.metric
    scores = [score for r in data.of_state("finished") if (score := shown_score(r)) is not None]
    if len(scores) < MIN_FINISHED_FOR_RANGE:
        scores = data.scores() or [metric.low, metric.high]
    low, high = min(scores), max(scores)
    if len(scores) >= MIN_SCORES_FOR_CLIPPING:
        low = float(np.quantile(scores, 0.1)) if data.maximizes else low
        high = high if data.maximizes else float(np.quantile(scores, 0.9))
    if low == high:
        low, high = metric._replace(low=low, high=high).limits()
    scale = metric._replace(low=low, high=high)
    norm = LogNorm(low, high) if scale.is_log else Normalize(low, high)
    # The yellow end of viridis is hard to see on white.
    colors = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.93, 256)))
    return Shades(norm, colors.reversed() if data.maximizes else colors, scale)
