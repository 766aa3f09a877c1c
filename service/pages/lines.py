"""Lines of figures: their styles, texts to hover over, axes and legend."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

from service.pages.series import Series

COLORS = {"teacher": "#b2182b", "student": "#2166ac", "model": "#2166ac", "both": "#555555"}
FILLS = {side: f"rgba{(*hex_to_rgb(color), 0.15)}" for side, color in COLORS.items()}
NO_EXTRA = "<extra></extra>"

Place = tuple[int, int]
"""Row and column of a panel, from 1."""
WHOLE: Place = (1, 1)
"""The place of a figure with a single panel."""


def line_style(name: str, color: str, width: float, opacity: float = 1.0) -> dict[str, Any]:
    """How a line is drawn; ``name``: its entry in the legend; ``width``: in pixels."""
    line = {"color": color, "width": width}
    return {"name": name, "line": line, "opacity": opacity, "mode": "lines"}


def add_line(
    figure: go.Figure,
    place: Place,
    points: Series,
    hover: str | list[str],
    style: Mapping[str, Any],
    template: str = "epoch %{x}, %{y:.2%}",
) -> None:
    """Points as a line of the panel at a place; ``hover``: of the line, or of each point."""
    if not points:
        return
    row, column = place
    x, y = [round(x, 4) for x, _ in points], [float(f"{y:.5g}") for _, y in points]
    if style.get("hoverinfo") != "skip":
        # In a template, Plotly knows hovertext by point only, and meta of a whole line.
        source = "meta" if isinstance(hover, str) else "hovertext"
        style = {**style, source: hover, "hovertemplate": f"%{{{source}}}<br>{template}{NO_EXTRA}"}
    figure.add_scatter(x=x, y=y, row=row, col=column, **style)


def add_band(figure: go.Figure, place: Place, low: Series, high: Series, color: str) -> None:
    """The area between two lines, without a text or an entry in the legend."""
    edge = {"line": {"width": 0}, "hoverinfo": "skip", "mode": "lines"}
    add_line(figure, place, low, "", edge)
    add_line(figure, place, high, "", edge | {"fill": "tonexty", "fillcolor": color})


def finish(figure: go.Figure, x_title: str, y_title: str) -> go.Figure:
    """The figure with titles of its axes, and one entry of the legend for each name."""
    figure.update_xaxes(zeroline=False, gridcolor="#eee", automargin=True)
    figure.update_yaxes(zeroline=False, gridcolor="#eee", automargin=True)
    figure.update_yaxes(title={"text": y_title, "standoff": 6}, col=1)
    seen: set[str | None] = set()
    for trace in figure.data:
        trace.legendgroup = trace.name
        trace.showlegend = trace.name is not None and trace.name not in seen
        seen.add(trace.name)
    for axis in figure.select_xaxes(selector={"showticklabels": True}):
        axis.title = {"text": x_title, "standoff": 6}
    return figure.update_layout(hovermode="closest")
