"""What the figures of all pages share: layout, colors, and texts that Plotly cannot misread."""

import textwrap
from html import escape

import plotly.graph_objects as go

LAYOUT = {
    "template": "none",
    "title": {"font": {"size": 14}, "x": 0, "y": 1, "yanchor": "top", "yref": "container"},
    "title_pad": {"t": 22, "l": 8},
    "legend": {"title": None, "orientation": "h", "yref": "container", "y": 0},
    "margin": {"l": 60, "r": 30, "b": 100},
    "modebar": {"orientation": "v"},
    "xaxis": {"zeroline": False, "automargin": True},
    "yaxis": {"zeroline": False, "automargin": True},
}
PERCENT = ".4~%"
BLUE, GREEN, ORANGE, GRAY = "#31688e", "#35a07a", "#d55e00", "#777"


def titled(figure: go.Figure, title: str, note: str) -> go.Figure:
    """The figure in the pages' layout, with a title and a smaller note below it."""
    text = f"{wrapped(title, 46)}<br><sub>{wrapped(note, 60)}</sub>"
    return figure.update_layout(LAYOUT, title_text=text, margin_t=50 + 18 * text.count("<br>"))


def wrapped(text: str, width: int) -> str:
    """A text for Plotly, which reads tags in it and does not wrap it."""
    return "<br>".join(escape(line, quote=False) for line in textwrap.wrap(text, width))


def shortened(text: str, width: int, num_lines: int = 1) -> str:
    """A text for a place with room for a few lines only."""
    limit = width * num_lines
    return wrapped(text if len(text) <= limit else text[: limit - 1] + "…", width)
