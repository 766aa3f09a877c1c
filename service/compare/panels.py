"""Pictures with a small panel for each variant of a pair: curves, temperatures, reliability."""

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb
from plotly.subplots import make_subplots

from service.compare.pictures import full_name, pair_title
from service.compare.records import RunRecord, Series
from service.compare.summary import VariantSummary, deviation, mean
from service.pages.figures import BLUE, PERCENT, shortened, titled, wrapped
from service.run.predictions import Reliability

COLORS = {"teacher": "#b2182b", "student": "#2166ac", "both": "#555555"}
FILLS = {side: f"rgba{(*hex_to_rgb(color), 0.15)}" for side, color in COLORS.items()}
MIN_COLUMNS, PANEL_PX, TALL_PANEL_PX = 3, 150, 210
TITLE_LINE_PX, TICKS_PX, BOTTOM_PX = 16, 36, 100
NO_EXTRA = "<extra></extra>"
NUM_TEMPERATURE_BINS = 60
MEDIAN = "_p50"
"""Ends the name of the metric that is the median of a batch's temperatures."""
ONE_OF_ALL = "/temperature"
"""Ends the name of the metric that is the temperature of all samples."""
SHOWN_SHARE = 0.85
"""Of the learning curves: their first values are so low that the differences would not be seen."""
MIN_IMAGES, MIN_SHARE = 10, 0.001
"""Of a bin of a reliability diagram: the accuracy of fewer images is noise."""


def learning_curves(summaries: Sequence[VariantSummary], pair: str) -> go.Figure | None:
    """Top-1 by epoch of each seed, and the means of the variant and the base; None without any."""
    shown = [s for s in summaries if any(_finite(run.curve) for run in s.runs)]
    if not shown:
        return None
    title = pair_title(pair, "Top-1 on val by epoch")
    note = "each seed, and the mean of the seeds that have finished"
    figure, places = _panels([shortened(s.name, 24) for s in shown], title, note)
    base = next((mean_curve(s.runs) for s in summaries if s.result.is_base), ())
    for summary, place in zip(shown, places, strict=True):
        for run in summary.runs:
            state = "" if run.state == "finished" else f", {run.state}"
            name = f"{full_name(summary.result)}, seed {run.seed}{state}"
            _add_line(figure, place, _finite(run.curve), name, _line("seed", BLUE, 1, 0.45))
        if not summary.result.is_base:
            _add_line(figure, place, base, "base, mean", _line("mean of the base", "#333", 1.5))
        name = f"{full_name(summary.result)}, mean"
        _add_line(figure, place, mean_curve(summary.runs), name, _line("mean", BLUE, 2.5))
    values = [[v for run in s.runs for _, v in _finite(run.curve)] for s in shown]
    every = np.concatenate(values)
    # Of a variant that lies below the others, half is seen.
    low, high = min(np.quantile(every, 1 - SHOWN_SHARE), *map(np.median, values)), every.max()
    margin = 0.05 * (high - low) or 0.01
    figure.update_yaxes(tickformat=PERCENT, range=[low - margin, high + margin])
    return _finish(figure, "epoch", "top-1")


def temperatures(summaries: Sequence[VariantSummary], pair: str) -> go.Figure | None:
    """Softmax temperatures over training, of variants that log any; None without any."""
    shown = [s for s in summaries if any(run.temperatures for run in s.runs)]
    if not shown:
        return None
    title = pair_title(pair, "Softmax temperatures over training")
    note = "of a step, or median and 5th to 95th percentile of a batch; mean of seeds"
    figure, places = _panels([shortened(s.name, 24) for s in shown], title, note)
    for summary, place in zip(shown, places, strict=True):
        metrics = dict.fromkeys(metric for run in summary.runs for metric in run.temperatures)
        for metric in metrics:
            if metric.endswith(MEDIAN):
                _add_temperature(figure, place, summary, metric.removesuffix(MEDIAN))
            elif metric.endswith(ONE_OF_ALL):
                _add_temperature(figure, place, summary, metric, median="")
    figure.update_yaxes(rangemode="tozero")
    return _finish(figure, "epoch", "temperature")


def reliability_diagrams(summaries: Sequence[VariantSummary], pair: str) -> go.Figure | None:
    """Accuracy by confidence of each variant and of its teacher; None without any."""
    shown = [s for s in summaries if s.student_reliability is not None]
    if not shown:
        return None
    title = pair_title(pair, "Accuracy by confidence")
    note = "images of all seeds, in bins of at least 10 and 0.1 % of them; larger circles have more"
    titles = [f"{shortened(s.name, 20)}<br>{_calibration_text(s)}" for s in shown]
    figure, places = _panels(titles, title, note, max_columns=5)
    for summary, place in zip(shown, places, strict=True):
        style = _line("as accurate as confident", "#aaa", 1) | {"hoverinfo": "skip"}
        style["line"] |= {"dash": "dot"}
        _add_line(figure, place, ((0, 0), (1, 1)), "", style)
        for side, diagram in (
            ("teacher", summary.teacher_reliability),
            ("student", summary.student_reliability),
        ):
            if diagram is not None:
                _add_reliability(figure, place, diagram, side, summary)
    figure.update_yaxes(tickformat=".0%", range=[-0.04, 1.04], dtick=0.5)
    # At 0 and 1, numbers of neighboring panels would overlap.
    figure.update_xaxes(tickformat=".0%", range=[-0.04, 1.04], tickvals=[0.2, 0.5, 0.8])
    return _finish(figure, "confidence", "accuracy")


def mean_curve(runs: Sequence[RunRecord]) -> Series:
    """The mean of the finished runs' curves, at the epochs that all of these have evaluated."""
    curves = [dict(_finite(run.curve)) for run in runs if run.state == "finished"]
    if not curves:
        return ()
    shared = sorted(set.intersection(*({*curve} for curve in curves)))
    return tuple((epoch, float(np.mean([curve[epoch] for curve in curves]))) for epoch in shared)


def binned(several: Sequence[Series], num_epochs: int) -> Series:
    """Means of the points of several series within bins of equal numbers of epochs."""
    points = [point for series in several for point in _finite(series)]
    bins: dict[int, list[tuple[float, float]]] = {}
    for epoch, value in points:
        place = min(int(epoch / num_epochs * NUM_TEMPERATURE_BINS), NUM_TEMPERATURE_BINS - 1)
        bins.setdefault(place, []).append((epoch, value))
    means = (np.mean(bins[place], axis=0).tolist() for place in sorted(bins))
    return tuple((epoch, value) for epoch, value in means)


def _add_temperature(
    figure: go.Figure,
    place: tuple[int, int],
    summary: VariantSummary,
    name: str,
    median: str = MEDIAN,
) -> None:
    """The median of a temperature as a line, and the other quantiles as a band, if it has any."""
    side = next((side for side in ("student", "teacher") if side in name), "both")

    def series(quantile: str) -> Series:
        runs = [run for run in summary.runs if name + quantile in run.temperatures]
        if not runs:
            return ()
        return binned([run.temperatures[name + quantile] for run in runs], runs[0].num_epochs)

    low, high = series("_p5"), series("_p95")
    if low and high:
        edge = {"line": {"width": 0}, "hoverinfo": "skip", "mode": "lines"}
        _add_line(figure, place, low, "", edge)
        _add_line(figure, place, high, "", edge | {"fill": "tonexty", "fillcolor": FILLS[side]})
    text = f"{full_name(summary.result)}, {wrapped(name, 60)}"
    style = _line(side, COLORS[side], 2)
    _add_line(figure, place, series(median), text, style, "epoch %{x:.3~g}, %{y:.3g}")


def _add_reliability(
    figure: go.Figure,
    place: tuple[int, int],
    diagram: Reliability,
    side: str,
    summary: VariantSummary,
) -> None:
    is_used = diagram.counts >= max(MIN_IMAGES, MIN_SHARE * diagram.counts.sum())
    if not is_used.any():
        return
    counts = diagram.counts[is_used]
    points = zip(
        diagram.confidences[is_used].tolist(), diagram.accuracies[is_used].tolist(), strict=True
    )
    sizes = (3 + 9 * np.sqrt(counts / counts.max())).round(1).tolist()
    style = _line(side, COLORS[side], 1.5) | {
        "mode": "lines+markers",
        "marker": {"size": sizes, "color": COLORS[side]},
    }
    texts = [f"{full_name(summary.result)}, {side}, {count} images" for count in counts]
    _add_line(figure, place, tuple(points), texts, style, "confidence %{x:.1%}, accuracy %{y:.1%}")


def _calibration_text(summary: VariantSummary) -> str:
    """Expected calibration errors of student and teacher, each in a line."""
    values = summary.calibration_errors
    middle, spread = mean(values), deviation(values)
    assert middle is not None, "it has a diagram"
    text = f"ECE {middle:.1%}" if spread is None else f"ECE {100 * middle:.1f} ± {spread:.1%}"
    if summary.teacher_reliability is None:
        return text
    return f"{text}<br>teacher {summary.teacher_reliability.calibration_error:.1%}"


def _line(name: str, color: str, width: float, opacity: float = 1.0) -> dict:
    line = {"color": color, "width": width}
    return {"name": name, "line": line, "opacity": opacity, "mode": "lines"}


def _add_line(
    figure: go.Figure,
    place: tuple[int, int],
    points: Series,
    hover: str | list[str],
    style: dict,
    template: str = "epoch %{x}, %{y:.2%}",
) -> None:
    """Points as a line of the panel at a place; ``hover``: of the line, or of each point."""
    if not points:
        return
    row, column = place
    x, y = [round(x, 4) for x, _ in points], [round(y, 5) for _, y in points]
    if style.get("hoverinfo") != "skip":
        # In a template, Plotly knows hovertext by point only, and meta of a whole line.
        source = "meta" if isinstance(hover, str) else "hovertext"
        style = {**style, source: hover, "hovertemplate": f"%{{{source}}}<br>{template}{NO_EXTRA}"}
    figure.add_scatter(x=x, y=y, row=row, col=column, **style)


def _panels(
    titles: Sequence[str], title: str, note: str, max_columns: int = 4
) -> tuple[go.Figure, list[tuple[int, int]]]:
    """Panels with the same axes, and their rows and columns from 1."""
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


def _finish(figure: go.Figure, x_title: str, y_title: str) -> go.Figure:
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


def _finite(series: Series) -> Series:
    return tuple(point for point in series if math.isfinite(point[1]))
