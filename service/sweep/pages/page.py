"""The page of a sweep: one self-contained HTML file that can be opened offline."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from service.sweep.analysis import (
    STATE_WORDS,
    TrialRecord,
    best_first,
    best_so_far,
    counts_text,
    is_number,
    metric_text,
    value_text,
)

CAPTIONS = {
    "metric_by_time": "The metric against training time, of finished trials. The line is the "
    "Pareto front: trials that no other trial beats in both.",
    "metric_by_parameter": "The metric against each parameter. Trials stopped early have their "
    "last score; trials without a score are at the bottom edge.",
    "temperature_alpha_map": "The metric at the last epoch reached, by base temperature and alpha. "
    "Darker is better.",
    "parallel_coordinates": "Each line is a trial, from its parameters to the metric at the last "
    "epoch reached. Darker is better.",
    "learning_curves": "The metric after each evaluated epoch.",
    "importance": "Share of the metric's variance that each parameter explains (fANOVA), at an "
    "epoch before which no trial is stopped early.",
}

STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #666; --line: #d8d8d8; --paper: #fff;
  --band: #f4f5f7; --best: #fff6cc; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e4e4; --faint: #a0a0a0; --line: #444;
  --paper: #17181a; --band: #222427; --best: #4a4216; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 75rem; padding: 1rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 2rem; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .25rem 1.25rem; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
pre, .table, figure { overflow-x: auto; }
pre { padding: .75rem; background: var(--band); border-radius: .4rem; }
figure { margin: 1.5rem 0; }
img { display: block; max-width: 100%; min-width: 40rem; border-radius: .4rem; }
figcaption { color: var(--faint); font-size: .9rem; margin-top: .4rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
td.number { text-align: right; }
td.number, td.state { white-space: nowrap; }
td.error { min-width: 16rem; white-space: pre-wrap; overflow-wrap: anywhere; }
td.error div { max-height: 6rem; overflow-y: auto; }
th { background: var(--band); }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid; }
th[aria-sort=ascending] button::after { content: " \\25b2"; }
th[aria-sort=descending] button::after { content: " \\25bc"; }
tr.best { background: var(--best); }
@media (prefers-color-scheme: dark) { img { filter: brightness(.88); } }
"""

SCRIPT = """
const body = document.querySelector("tbody");
document.querySelectorAll("th button").forEach((button, column) => {
  button.addEventListener("click", () => {
    const header = button.parentElement;
    const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const key = (row) => row.cells[column].dataset.key;
    const compare = (a, b) => a - b || a.localeCompare(b, "en", { numeric: true });
    const rows = Array.from(body.rows);
    rows.sort((one, two) => {
      const [a, b] = [key(one), key(two)];
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * compare(a, b);
    });
    body.append(...rows);
    document.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  });
});
"""


class Cell(NamedTuple):
    """A cell of the table: its text, its sort key ("" is last), and its CSS class."""

    text: str
    key: str
    kind: str = ""


def render_page(
    title: str,
    summary: Sequence[tuple[str, str]],
    records: Sequence[TrialRecord],
    metric: str,
    maximizes: bool,
    figures: Mapping[str, bytes],
    confirm: str = "",
) -> str:
    """The page as HTML that loads no external resources.

    ``summary``: labels and texts at the top. ``figures``: PNG files by name. ``confirm``: the
    comparison of the best settings with the default, shown as preformatted text.
    """
    entries = "\n".join(
        f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in summary
    )
    confirmation = ""
    if confirm:
        heading = "Best and default settings, by seed"
        confirmation = f"<h2>{heading}</h2>\n<pre>{escape(confirm)}</pre>"
    pictures = "\n".join(_picture(name, image) for name, image in figures.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(_content_policy())}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<dl>
{entries}
</dl>
{confirmation}
{pictures}
<h2>All trials</h2>
<p>{escape(counts_text(records))}. Click a column's heading to sort by it.</p>
{_table(records, metric, maximizes)}
<script>{SCRIPT}</script>
</body>
</html>
"""


def _content_policy() -> str:
    """A policy that allows only this page's own style, script and embedded pictures.

    The hashes block all other scripts, even if a text were not escaped.
    """
    style, script = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (STYLE, SCRIPT)
    )
    return (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _picture(name: str, image: bytes) -> str:
    caption = escape(CAPTIONS.get(name, name.replace("_", " ")))
    data = base64.b64encode(image).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _table(records: Sequence[TrialRecord], metric: str, maximizes: bool) -> str:
    paths = list(dict.fromkeys(path for record in records for path in record.params))
    names = ["trial", "state", metric, "epochs", "seconds", "failures", *paths, "error"]
    headings = "".join(
        f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in names
    )
    best = best_so_far(records, maximizes)
    rows = "\n".join(
        _row(record, paths, metric, record is best) for record in _ranked(records, maximizes)
    )
    return (
        f'<div class="table"><table>\n<thead><tr>{headings}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _ranked(records: Sequence[TrialRecord], maximizes: bool) -> list[TrialRecord]:
    """By state, finished first; within a state by score, best first."""
    states = list(STATE_WORDS)
    return sorted(best_first(records, maximizes), key=lambda record: states.index(record.state))


def _row(record: TrialRecord, paths: Sequence[str], metric: str, is_best: bool) -> str:
    error = record.error or ""
    cells = [
        _number(record.number),
        Cell(STATE_WORDS[record.state] + (" (best)" if is_best else ""), record.state, "state"),
        Cell("", "", "number")
        if record.score is None
        else Cell(metric_text(record.score, metric), repr(float(record.score)), "number"),
        _number(record.curve[-1][0] if record.curve else 0),
        Cell(f"{record.seconds:,.0f}", repr(float(record.seconds)), "number"),
        _number(record.num_failures),
        *(_value(record.params[path]) if path in record.params else Cell("", "") for path in paths),
    ]
    plain = "".join(_cell(cell) for cell in cells)
    error_cell = f'<td class="error" data-key="{escape(error)}"><div>{escape(error)}</div></td>'
    opening = '<tr class="best">' if is_best else "<tr>"
    return f"{opening}{plain}{error_cell}</tr>"


def _number(count: int) -> Cell:
    return Cell(str(count), str(count), "number")


def _value(value: object) -> Cell:
    text = value_text(value)
    return Cell(text, repr(value), "number") if is_number(value) else Cell(text, text)


def _cell(cell: Cell) -> str:
    kind = f' class="{cell.kind}"' if cell.kind else ""
    return f'<td{kind} data-key="{escape(cell.key)}">{escape(cell.text)}</td>'
