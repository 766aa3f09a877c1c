"""A page of interactive figures, tables and texts: one HTML file that can be opened offline."""

import base64
import gzip
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from importlib import resources

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

_FILES = resources.files(__package__)
STYLE, SCRIPT = ((_FILES / name).read_text() for name in ("page.css", "page.js"))
NOT_DRAWN = "Drawn with JavaScript, by a browser of 2023 or newer."


def render_page(title: str, parts: Sequence[str]) -> str:
    """The page as HTML that loads no external resources; ``parts``: from the functions below."""
    # Plotly sets styles from its script. The hashes block other scripts, even if a text of a trial
    # were not escaped.
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        f"form-action 'none'; script-src '{_digest(SCRIPT)}' '{_digest(get_plotlyjs())}'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{"".join(parts)}
<script type="text/plain" id="plotly">{_compressed_library()}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Labels and texts."""
    entries = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>\n" for label, text in rows)
    return f"<dl>\n{entries}</dl>\n"


def heading(text: str) -> str:
    """The heading of a section."""
    return f"<h2>{escape(text)}</h2>\n"


def preformatted(title: str, text: str) -> str:
    """A text that keeps its lines, under a heading."""
    return f"{heading(title)}<pre>{escape(text)}</pre>\n"


def picture(figures: Sequence[go.Figure], caption: str, *, is_wide: bool = False) -> str:
    """Figures side by side where there is room; a wide one scrolls sideways where there is not.

    Their heights are those of their layouts, or else equal.
    """
    label = escape(caption)
    plots = "".join(
        f'<div><div class="plot" role="img" aria-label="{label}"{_style(figure)}>{NOT_DRAWN}</div>'
        f'<script type="application/json">{_json(figure)}</script></div>\n'
        for figure in figures
    )
    kind = "plots wide" if is_wide else "plots"
    return f'<figure><div class="{kind}">\n{plots}</div><figcaption>{label}</figcaption></figure>\n'


def table(title: str, note: str, rows: pd.DataFrame) -> str:
    """A table of texts that is sorted by a click on a column's heading.

    Texts that begin with a number are sorted by it.
    """
    body = rows.to_html(index=False, border=0)
    return (
        f"{heading(title)}<p>{escape(note)}. Click a column's heading to sort by it.</p>\n"
        f'<div class="table">{body}</div>\n'
    )


def _style(figure: go.Figure) -> str:
    height_px = figure.layout.height
    return "" if height_px is None else f' style="height: {height_px}px"'


def _json(figure: go.Figure) -> str:
    text = figure.to_json()
    assert isinstance(text, str)
    # Within a script element, only "<" can end it.
    return text.replace("<", "\\u003c")


@lru_cache
def _compressed_library() -> str:
    """Plotly's script, which is three times as large otherwise."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


@lru_cache
def _digest(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
