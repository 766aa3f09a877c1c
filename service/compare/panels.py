"""Pictures with a small panel for each variant of a pair: curves, temperatures, reliability."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from service.compare.pictures import full_name, pair_title
from service.compare.records import RunRecord
from service.compare.summary import VariantSummary, deviation, mean
from service.pages import reliability, temperatures
from service.pages.figures import BLUE, PERCENT, shortened
from service.pages.lines import add_line, finish, line_style
from service.pages.panels import panels
from service.pages.series import Series, binned, finite

NUM_TEMPERATURE_BINS = 60
SHOWN_SHARE = 0.85
"""Of the learning curves: their first values are so low that the differences would not be seen."""


def learning_curves(summaries: Sequence[VariantSummary], pair: str) -> go.Figure | None:
    """Top-1 by epoch of each seed, and the means of the variant and the base; None without any."""
    shown = [s for s in summaries if any(finite(run.curve) for run in s.runs)]
    if not shown:
        return None
    title = pair_title(pair, "Top-1 on val by epoch")
    note = "each seed, and the mean of the seeds that have finished"
    figure, places = panels([shortened(s.name, 24) for s in shown], title, note)
    base = next((mean_curve(s.runs) for s in summaries if s.result.is_base), ())
    for summary, place in zip(shown, places, strict=True):
        for run in summary.runs:
            state = "" if run.state == "finished" else f", {run.state}"
            name = f"{full_name(summary.result)}, seed {run.seed}{state}"
            add_line(figure, place, finite(run.curve), name, line_style("seed", BLUE, 1, 0.45))
        if not summary.result.is_base:
            add_line(figure, place, base, "base, mean", line_style("mean of the base", "#333", 1.5))
        name = f"{full_name(summary.result)}, mean"
        add_line(figure, place, mean_curve(summary.runs), name, line_style("mean", BLUE, 2.5))
    values = [[v for run in s.runs for _, v in finite(run.curve)] for s in shown]
    every = np.concatenate(values)
    # Of a variant that lies below the others, half is seen.
    low, high = min(np.quantile(every, 1 - SHOWN_SHARE), *map(np.median, values)), every.max()
    margin = 0.05 * (high - low) or 0.01
    figure.update_yaxes(tickformat=PERCENT, range=[low - margin, high + margin])
    return finish(figure, "epoch", "top-1")


def temperature_panels(summaries: Sequence[VariantSummary], pair: str) -> go.Figure | None:
    """Softmax temperatures over training, of variants that log any; None without any."""
    shown = [s for s in summaries if any(run.temperatures for run in s.runs)]
    if not shown:
        return None
    title = pair_title(pair, "Softmax temperatures over training")
    note = f"{temperatures.NOTE}; mean of seeds"
    figure, places = panels([shortened(s.name, 24) for s in shown], title, note)
    for summary, place in zip(shown, places, strict=True):
        temperatures.add_temperatures(
            figure, place, _mean_temperatures(summary.runs), full_name(summary.result)
        )
    figure.update_yaxes(rangemode="tozero")
    return finish(figure, "epoch", "temperature")


def _mean_temperatures(runs: Sequence[RunRecord]) -> dict[str, Series]:
    """Temperatures by metric, over the runs that log them."""
    several: dict[str, list[Series]] = defaultdict(list)
    for run in runs:
        for metric, series in run.temperatures.items():
            several[metric].append(series)
    num_epochs = runs[0].num_epochs
    return {m: binned(each, num_epochs, NUM_TEMPERATURE_BINS) for m, each in several.items()}


def reliability_panels(summaries: Sequence[VariantSummary], pair: str) -> go.Figure | None:
    """Accuracy by confidence of each variant and of its teacher; None without any."""
    shown = [s for s in summaries if s.student_reliability is not None]
    if not shown:
        return None
    title = pair_title(pair, "Accuracy by confidence")
    note = f"images of all seeds, {reliability.NOTE}"
    titles = [f"{shortened(s.name, 20)}<br>{_calibration_text(s)}" for s in shown]
    figure, places = panels(titles, title, note, max_columns=5)
    for summary, place in zip(shown, places, strict=True):
        found = {"teacher": summary.teacher_reliability, "student": summary.student_reliability}
        diagrams = {side: diagram for side, diagram in found.items() if diagram is not None}
        reliability.add_diagrams(figure, place, diagrams, full_name(summary.result))
    return finish(reliability.with_share_axes(figure), "confidence", "accuracy")


def mean_curve(runs: Sequence[RunRecord]) -> Series:
    """The mean of the finished runs' curves, at the epochs that all of these have evaluated."""
    curves = [dict(finite(run.curve)) for run in runs if run.state == "finished"]
    if not curves:
        return ()
    shared = sorted(set.intersection(*({*curve} for curve in curves)))
    return tuple((epoch, float(np.mean([curve[epoch] for curve in curves]))) for epoch in shared)


def _calibration_text(summary: VariantSummary) -> str:
    """Expected calibration errors of student and teacher, each in a line."""
    values = summary.calibration_errors
    middle, spread = mean(values), deviation(values)
    assert middle is not None, "it has a diagram"
    text = f"ECE {middle:.1%}" if spread is None else f"ECE {100 * middle:.1f} ± {spread:.1%}"
    if summary.teacher_reliability is None:
        return text
    return f"{text}<br>teacher {summary.teacher_reliability.calibration_error:.1%}"
