"""Figures of one panel, or of several with the same axes."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from service.pages.figures import titled
from service.pages.lines import Place

MIN_COLUMNS, PANEL_PX, TALL_PANEL_PX = 3, 150, 210
TITLE_LINE_PX, TICKS_PX, BOTTOM_PX = 16, 36, 100


def panels(
    titles: Sequence[str], title: str, note: str, max_columns: int = 4
) -> tuple[go.Figure, list[Place]]:
    """Panels with the same axes, and their places.

    ``titles``: of the panels, as Plotly reads them.
    """
    # With fewer, lines are too flat to be compared.
    num_columns = min(max(len(titles), MIN_COLUMNS), max_columns)
    num_rows = math.ceil(len(titles) / num_columns)
    panel_px = PANEL_PX if num_rows > 1 else TALL_PANEL_PX
    title_px = TITLE_LINE_PX * (1 + max(text.count("<br>") for text in titles))
    gap_px = title_px + TICKS_PX
    height_px = num_rows * panel_px + (num_rows - 1) * gap_px
    figure = make_subplots(
        num_rows,
        num_columns,
        subplot_titles=titles,
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.02,
        vertical_spacing=gap_px / height_px,
    )
    titled(figure, title, note)
    top_px = figure.layout.margin.t + title_px
    figure.update_layout(height=top_px + height_px + BOTTOM_PX, margin={"t": top_px})
    figure.update_annotations(font_size=11)
    places = [(1 + n // num_columns, 1 + n % num_columns) for n in range(len(titles))]
    for row, column in places[-num_columns:]:
        figure.update_xaxes(showticklabels=True, row=row, col=column)
    return figure, places


def single_panel(title: str, note: str) -> go.Figure:
    """A figure with one panel, at the place ``WHOLE``, as high as others beside it on the page."""
    figure = titled(make_subplots(), title, note)
    return figure.update_xaxes(showticklabels=True)
