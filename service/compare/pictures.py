"""Pictures with a row for each variant of a pair: what was measured with each seed."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from service.compare.records import VariantResult
from service.compare.statistics import BETTER, MORE_SEEDS, NOISE, WORSE
from service.compare.summary import VariantSummary, mean
from service.pages.figures import BLUE, GRAY, GREEN, ORANGE, PERCENT, shortened, titled, wrapped

ROW_PX, MARGIN_PX = 26, 190
SEED_MARKER = {"symbol": "circle", "size": 8, "opacity": 0.45}
MEAN_MARKER = {"symbol": "line-ns", "size": 17, "line": {"width": 3}}
POINTS = 100.0
"""Percentage points of a difference of 1 in accuracy."""

VERDICTS = {BETTER: GREEN, WORSE: ORANGE, NOISE: GRAY, MORE_SEEDS: BLUE}


class Quantity(NamedTuple):
    """What is drawn for each seed.

    ``name``: of the axis. ``ticks``, ``texts``: d3's formats of numbers at the axis, and of those
    that are shown where one hovers.
    """

    title: str
    name: str
    ticks: str = PERCENT
    texts: str = ".2%"


def pair_title(pair: str, title: str) -> str:
    """A title of a figure, which names its pair of teacher and student if there are several."""
    return f"{pair}: {title}" if pair else title


def forest(summaries: Sequence[VariantSummary], pair: str) -> go.Figure | None:
    """Differences to the base with their intervals; None without any.

    ``summaries``: of one pair, drawn from top to bottom. Colors tell the intervals that exclude 0.
    """
    results = [summary.result for summary in summaries]
    if all(result.difference is None for result in results):
        return None
    base = next(result for result in results if result.is_base)
    figure = go.Figure()
    figure.add_vline(0, line={"color": "#333", "width": 1})
    _add_seeds(figure, [_paired_differences(result, base) for result in results], results, "+.2f")
    for verdict, color in VERDICTS.items():
        rows = [
            row
            for row, result in enumerate(results)
            if result.verdict == verdict and result.difference is not None
        ]
        if rows:
            figure.add_trace(_intervals([results[row] for row in rows], rows, verdict, color))
    figure.update_xaxes(title_text="difference in top-1 (percentage points)")
    note = "paired by seed, with the interval at Holm's level"
    return with_rows(figure, summaries, pair_title(pair, "Difference to the base"), note)


def by_seed(
    quantity: Quantity,
    summaries: Sequence[VariantSummary],
    values: Sequence[Mapping[int, float]],
    pair: str,
) -> go.Figure | None:
    """A quantity of each variant: its seeds, and their mean; None without any.

    ``values``: by seed, of each summary. A line is drawn at the mean of the base.
    """
    if not any(values):
        return None
    results = [summary.result for summary in summaries]
    figure = go.Figure()
    base = _base_mean(summaries, values)
    if base is not None:
        figure.add_vline(base, line={"color": "#333", "width": 1, "dash": "dot"})
    _add_seeds(figure, values, results, quantity.texts)
    rows = [row for row, some in enumerate(values) if some]
    figure.add_scatter(
        x=[mean(values[row]) for row in rows],
        y=rows,
        mode="markers",
        marker=MEAN_MARKER | {"line": {"width": 3, "color": [_color(results[r]) for r in rows]}},
        hovertext=[f"{full_name(results[r])}, mean of {len(values[r])}" for r in rows],
        hovertemplate=_template(quantity.texts),
        name="mean",
    )
    figure.update_xaxes(title_text=quantity.name, tickformat=quantity.ticks)
    return with_rows(figure, summaries, pair_title(pair, quantity.title), "each seed, and the mean")


def relative_to_base(
    summaries: Sequence[VariantSummary], values: Sequence[Mapping[int, float]]
) -> list[dict[int, float]]:
    """Values by seed, of each summary, divided by the mean of the base's; empty without that."""
    base = _base_mean(summaries, values)
    if not base:
        return [{} for _ in values]
    return [{seed: value / base for seed, value in some.items()} for some in values]


def _base_mean(
    summaries: Sequence[VariantSummary], values: Sequence[Mapping[int, float]]
) -> float | None:
    pairs = zip(summaries, values, strict=True)
    return next((mean(some) for summary, some in pairs if summary.result.is_base), None)


def _paired_differences(result: VariantResult, base: VariantResult) -> dict[int, float]:
    if result.is_base:
        return {}
    seeds = result.top1.keys() & base.top1.keys()
    return {seed: POINTS * (result.top1[seed] - base.top1[seed]) for seed in sorted(seeds)}


def _intervals(
    results: Sequence[VariantResult], rows: Sequence[int], verdict: str, color: str
) -> go.Scatter:
    """Means with their intervals, at rows of a figure."""
    means = [POINTS * (result.difference or 0.0) for result in results]
    ends = [
        (middle, middle) if result.interval is None else [POINTS * end for end in result.interval]
        for middle, result in zip(means, results, strict=True)
    ]
    upper = [high - middle for middle, (_, high) in zip(means, ends, strict=True)]
    lower = [middle - low for middle, (low, _) in zip(means, ends, strict=True)]
    bars = {"type": "data", "symmetric": False, "array": upper, "arrayminus": lower, "width": 4}
    return go.Scatter(
        x=means,
        y=rows,
        mode="markers",
        marker={"symbol": "square", "size": 9, "color": color},
        error_x={**bars, "color": color, "thickness": 2},
        hovertext=[_difference_text(result) for result in results],
        hovertemplate="%{hovertext}<extra></extra>",
        name=verdict,
    )


def _difference_text(result: VariantResult) -> str:
    assert result.difference is not None
    lines = [f"{full_name(result)}: {POINTS * result.difference:+.2f} points"]
    if result.interval is not None:
        low, high = (POINTS * end for end in result.interval)
        lines.append(f"interval {low:+.2f} to {high:+.2f}")
    if result.p_holm is not None:
        lines.append(f"p = {result.p_holm:.2g} after Holm's correction")
    return "<br>".join([*lines, wrapped(result.verdict, 60)])


def _add_seeds(
    figure: go.Figure,
    values: Sequence[Mapping[int, float]],
    results: Sequence[VariantResult],
    number_format: str,
) -> None:
    """A faint point for each seed of each row."""
    points = [
        (value, row, f"{full_name(results[row])}, seed {seed}", _color(results[row]))
        for row, some in enumerate(values)
        for seed, value in some.items()
    ]
    if not points:
        return
    x, y, texts, colors = zip(*points, strict=True)
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers",
        marker=SEED_MARKER | {"color": colors},
        hovertext=texts,
        hovertemplate=_template(number_format),
        name="seed",
    )


def _template(number_format: str) -> str:
    return f"%{{hovertext}}: %{{x:{number_format}}}<extra></extra>"


def full_name(result: VariantResult) -> str:
    """The variant's name as a text to hover over."""
    return wrapped(result.variant, 60)


def _color(result: VariantResult) -> str:
    return GRAY if result.is_base else BLUE


def with_rows(
    figure: go.Figure, summaries: Sequence[VariantSummary], title: str, note: str
) -> go.Figure:
    """The figure with a title, and the variants' names at the rows, from top to bottom."""
    titled(figure, title, note)
    labels = [shortened(summary.name, 22) for summary in summaries]
    labels = [
        f"<b>{label}</b>" if summary.result.is_base else label
        for label, summary in zip(labels, summaries, strict=True)
    ]
    figure.update_xaxes(gridcolor="#e8e8e8", title_standoff=6)
    figure.update_yaxes(
        tickvals=[*range(len(labels))],
        ticktext=labels,
        range=[len(labels) - 0.4, -0.6],
        gridcolor="#f0f0f0",
        fixedrange=True,
    )
    return figure.update_layout(height=MARGIN_PX + ROW_PX * len(labels), hovermode="closest")
