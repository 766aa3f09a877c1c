"""Pictures of the classes for which a variant is better or worse than the base."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from service.compare.pictures import POINTS, full_name, pair_title, with_rows
from service.compare.summary import VariantSummary
from service.pages.figures import GREEN, ORANGE, shortened, wrapped

MAX_MAPPED, MAX_NAMED = 100, 30
NUM_EXTREMES = 15
COLOR_BAR = {
    "orientation": "h",
    "thickness": 10,
    "len": 200,
    "lenmode": "pixels",
    "x": 0,
    "xanchor": "left",
    "y": 0,
    "yref": "container",
    "yanchor": "bottom",
    "tickformat": "+",
}


def class_gains_figure(
    summaries: Sequence[VariantSummary], pair: str, classes: Sequence[str]
) -> go.Figure | None:
    """Gains over the base by class; None without any.

    All classes as a map, or of more than MAX_MAPPED the most gained and lost ones of each variant.
    ``classes``: their names, [K].
    """
    known = [(s, s.class_gains) for s in summaries if s.class_gains is not None]
    if not known:
        return None
    shown = [summary for summary, _ in known]
    gains = POINTS * np.stack([gains for _, gains in known])
    if len(classes) > MAX_MAPPED:
        return _extremes(shown, gains, pair, classes)
    return _map(shown, gains, pair, classes)


def _map(
    shown: Sequence[VariantSummary],
    gains: NDArray[np.float64],
    pair: str,
    classes: Sequence[str],
) -> go.Figure:
    """Variants in rows and classes in columns, those with the largest mean gain on the right."""
    means = gains.mean(axis=0)
    # Those without images, whose mean is NaN, are at the end of the order.
    order = np.argsort(means, kind="stable")[: np.isfinite(means).sum()]
    names = [wrapped(classes[index], 60) for index in order]
    texts = [[f"{full_name(summary.result)}, {name}" for name in names] for summary in shown]
    values = gains[:, order]
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=values.round(2).tolist(),
            hovertext=texts,
            hovertemplate="%{hovertext}: %{z:+.2f} points<extra></extra>",
            colorscale=[ORANGE, "#ffffff", GREEN],
            zmin=-largest,
            zmax=largest,
            colorbar=COLOR_BAR,
            xgap=1,
            ygap=1,
        )
    )
    labels = [shortened(classes[index], 16) for index in order]
    if len(labels) > MAX_NAMED:
        title = "classes, by mean over the variants"
        figure.update_xaxes(title=title, showticklabels=False, ticks="")
    else:
        figure.update_xaxes(tickvals=[*range(len(labels))], ticktext=labels, tickangle=-45)
    note = "mean over the seeds that both have, in percentage points"
    return with_rows(figure, shown, pair_title(pair, "Change of accuracy by class"), note)


def _extremes(
    shown: Sequence[VariantSummary],
    gains: NDArray[np.float64],
    pair: str,
    classes: Sequence[str],
) -> go.Figure:
    """A point for each of the classes that a variant has gained or lost most."""
    order = np.argsort(gains, axis=1, kind="stable")
    figure = go.Figure()
    for name, color, position in (("lost", ORANGE, "left"), ("gained", GREEN, "right")):
        # From the outermost class to 0; the changes of classes without images are NaN.
        ranked = order if name == "lost" else order[:, ::-1]
        sign = -1 if name == "lost" else 1
        chosen = [
            (row, index, place)
            for row, indices in enumerate(ranked.tolist())
            for place, index in enumerate(_first(indices, sign * gains[row]))
        ]
        figure.add_scatter(
            x=[round(float(gains[row, index]), 2) for row, index, _ in chosen],
            y=[row for row, _, _ in chosen],
            mode="markers+text",
            marker={"size": 8, "color": color, "opacity": 0.6},
            text=["" if place else shortened(classes[index], 16) for _, index, place in chosen],
            textposition=f"middle {position}",
            textfont={"size": 10},
            hovertext=[
                f"{full_name(shown[row].result)}, {wrapped(classes[index], 60)}"
                for row, index, _ in chosen
            ],
            hovertemplate="%{hovertext}: %{x:+.2f} points<extra></extra>",
            name=name,
        )
    # Room for the names of the classes beside the outermost points.
    largest = 1.35 * float(np.nanmax(np.abs(gains), initial=0.0)) or 1.0
    figure.add_vline(0, line={"color": "#333", "width": 1})
    figure.update_xaxes(title="change of accuracy (percentage points)", range=[-largest, largest])
    title = f"The {NUM_EXTREMES} classes most gained and most lost"
    note = "a point for each class, mean over the seeds that both have"
    return with_rows(figure, shown, pair_title(pair, title), note)


def _first(indices: Sequence[int], sizes: NDArray[np.float64]) -> list[int]:
    """The first classes of an order whose changes have positive sizes."""
    return [index for index in indices if sizes[index] > 0][:NUM_EXTREMES]
