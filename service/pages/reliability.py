"""Reliability diagrams: how often a network is right, by how confident it is."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from service.pages.lines import COLORS, WHOLE, Place, add_line, finish, line_style
from service.pages.panels import single_panel
from service.run.predictions import Predictions, Reliability, reliability

MIN_IMAGES, MIN_SHARE = 10, 0.001
"""Of a bin of a reliability diagram: the accuracy of fewer images is noise."""
NOTE = "in bins of at least 10 and 0.1 % of them; larger circles have more"
CAPTION = "Above the diagonal, a network is right more often than it is confident."


def diagram_of(predictions: Predictions | None) -> Reliability | None:
    """None without predictions, or if none of them has a confidence."""
    if predictions is None:
        return None
    diagram = reliability(predictions)
    return diagram if diagram.counts.any() else None


def reliability_figure(diagrams: Mapping[str, Reliability]) -> go.Figure:
    """Diagrams of the same images by whose they are, such as student and teacher; see COLORS."""
    errors = (f"{side} {each.calibration_error:.1%}" for side, each in diagrams.items())
    figure = single_panel("Accuracy by confidence", f"ECE: {', '.join(errors)}; images {NOTE}")
    add_diagrams(figure, WHOLE, diagrams)
    return finish(with_share_axes(figure), "confidence", "accuracy")


def add_diagrams(
    figure: go.Figure, place: Place, diagrams: Mapping[str, Reliability], owner: str = ""
) -> None:
    """The diagonal, and diagrams by whose they are; see COLORS.

    ``owner``: begins the texts to hover over, as Plotly reads it.
    """
    style = line_style("as accurate as confident", "#aaa", 1) | {"hoverinfo": "skip"}
    style["line"] |= {"dash": "dot"}
    add_line(figure, place, ((0, 0), (1, 1)), "", style)
    for side, diagram in diagrams.items():
        _add_diagram(figure, place, diagram, side, f"{owner}, {side}" if owner else side)


def with_share_axes(figure: go.Figure) -> go.Figure:
    """The figure with both axes from 0 to 100 %."""
    figure.update_yaxes(tickformat=".0%", range=[-0.04, 1.04], dtick=0.5)
    # At 0 and 1, numbers of neighboring panels would overlap.
    return figure.update_xaxes(tickformat=".0%", range=[-0.04, 1.04], tickvals=[0.2, 0.5, 0.8])


def _add_diagram(
    figure: go.Figure, place: Place, diagram: Reliability, side: str, label: str
) -> None:
    is_used = diagram.counts >= max(MIN_IMAGES, MIN_SHARE * diagram.counts.sum())
    if not is_used.any():
        return
    counts = diagram.counts[is_used]
    points = zip(
        diagram.confidences[is_used].tolist(), diagram.accuracies[is_used].tolist(), strict=True
    )
    sizes = (3 + 9 * np.sqrt(counts / counts.max())).round(1).tolist()
    style = line_style(side, COLORS[side], 1.5) | {
        "mode": "lines+markers",
        "marker": {"size": sizes, "color": COLORS[side]},
    }
    texts = [f"{label}, {count} images" for count in counts]
    add_line(figure, place, tuple(points), texts, style, "confidence %{x:.1%}, accuracy %{y:.1%}")
