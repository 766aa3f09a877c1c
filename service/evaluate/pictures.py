"""Pictures of an evaluation: classes, confusions, calibration, corruptions."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from service.evaluate.report import (
    ClassAccuracy,
    Confusion,
    CorruptedAccuracy,
    Interval,
    ReliabilityBin,
)
from service.evaluate.statistics import wilson_interval
from service.pages.figures import (
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    PERCENT,
    shortened,
    titled,
    wrapped,
)
from service.pages.reliability import reliability_figure
from service.run.predictions import Reliability

MAX_CLASSES, NUM_WORST, NUM_BEST = 30, 20, 10
ROW_PX, LINE_PX, TOP_PX, BOTTOM_PX = 24, 14, 90, 60
LABEL_WIDTH = 20
KIND_STYLES = ((BLUE, "circle"), (ORANGE, "square"), (GREEN, "diamond"), ("#7b3294", "cross"))


def classes_figure(classes: Sequence[ClassAccuracy]) -> go.Figure | None:
    """Accuracy of each class with its 95 % interval, or of many the worst and the best ones.

    None if no class has images.
    """
    ranked = sorted(
        ((each.top1, each) for each in classes if each.top1 is not None), key=lambda pair: pair[0]
    )
    if not ranked:
        return None
    is_cut = len(ranked) > MAX_CLASSES
    shown = [*ranked[:NUM_WORST], *ranked[-NUM_BEST:]] if is_cut else ranked
    figure = go.Figure()
    intervals = [wilson_interval(round(top1 * c.num_images), c.num_images) for top1, c in shown]
    bars = {
        "type": "data",
        "symmetric": False,
        "array": [each.high - each.value for each in intervals],
        "arrayminus": [each.value - each.low for each in intervals],
    }
    figure.add_scatter(
        x=[top1 for top1, _ in shown],
        y=[*range(len(shown))],
        mode="markers",
        marker={"size": 8, "color": BLUE},
        error_x={**bars, "color": BLUE, "thickness": 1, "width": 0},
        hovertext=[f"{wrapped(each.name, 60)}, {each.num_images} images" for _, each in shown],
        hovertemplate="%{hovertext}: %{x:.1%}<extra></extra>",
    )
    figure.update_xaxes(title_text="top-1", tickformat=PERCENT, range=[-0.03, 1.03])
    title = "Accuracy by class"
    if is_cut:
        title = f"The {NUM_WORST} worst and the {NUM_BEST} best classes"
        line = {"color": "#333", "width": 1, "dash": "dot"}
        figure.add_hline(NUM_WORST - 0.5, line=line)
    labels = [shortened(each.name, LABEL_WIDTH) for _, each in shown]
    return _with_rows(figure, labels, title, "top-1 with its 95 % interval")


def confusions_figure(confusions: Sequence[Confusion]) -> go.Figure | None:
    """Shares of the images of a class that are taken for another; None without any."""
    if not confusions:
        return None
    figure = go.Figure(
        go.Bar(
            x=[each.share for each in confusions],
            y=[*range(len(confusions))],
            orientation="h",
            marker={"color": ORANGE},
            hovertext=[
                f"{wrapped(each.true, 60)}<br>taken for {wrapped(each.predicted, 60)}:"
                f"<br>{each.num_images} images"
                for each in confusions
            ],
            hovertemplate="%{hovertext}, %{x:.1%}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="share of the class's images", tickformat=PERCENT)
    labels = [
        f"{shortened(each.true, LABEL_WIDTH)}<br>as {shortened(each.predicted, LABEL_WIDTH)}"
        for each in confusions
    ]
    note = "what their images are most often taken for"
    return _with_rows(figure, labels, "Confusions of the worst classes", note, num_lines=2)


def calibration_figure(bins: Sequence[ReliabilityBin]) -> go.Figure | None:
    """Accuracy by confidence; None if no image has a confidence."""
    if not any(each.num_images for each in bins):
        return None
    accuracies = [np.nan if each.accuracy is None else each.accuracy for each in bins]
    confidences = [np.nan if each.confidence is None else each.confidence for each in bins]
    counts = np.array([each.num_images for each in bins])
    diagram = Reliability(counts, np.array(accuracies), np.array(confidences))
    return reliability_figure({"model": diagram})


def corruptions_figure(
    clean: Interval, corruptions: Sequence[CorruptedAccuracy]
) -> go.Figure | None:
    """Accuracy by strength of each kind of corruption, from the clean images on; None without."""
    if not corruptions:
        return None
    figure = go.Figure()
    kinds = dict.fromkeys(each.kind for each in corruptions)
    for kind, (color, symbol) in zip(kinds, KIND_STYLES, strict=False):
        found = [(each.strength, each.top1) for each in corruptions if each.kind == kind]
        points = [(0, clean), *found]
        figure.add_scatter(
            x=[strength for strength, _ in points],
            y=[top1.value for _, top1 in points],
            mode="lines+markers",
            name=kind,
            line={"color": color, "width": 2},
            marker={"symbol": symbol, "size": 8},
            hovertext=[f"{kind}, {top1.low:.1%} to {top1.high:.1%}" for _, top1 in points],
            hovertemplate="%{hovertext}<br>strength %{x}: %{y:.2%}<extra></extra>",
        )
    figure.add_hline(clean.value, line={"color": GRAY, "width": 1, "dash": "dot"})
    titled(figure, "Accuracy by strength of a corruption", "0: the clean images")
    figure.update_xaxes(title_text="strength", title_standoff=6, dtick=1, gridcolor="#eee")
    figure.update_yaxes(
        title_text="top-1", tickformat=PERCENT, rangemode="tozero", gridcolor="#eee"
    )
    return figure


def _with_rows(
    figure: go.Figure, labels: Sequence[str], title: str, note: str, num_lines: int = 1
) -> go.Figure:
    """The figure with a title, and labels of so many lines at its rows, from top to bottom."""
    titled(figure, title, note)
    figure.update_xaxes(gridcolor="#e8e8e8", title_standoff=6)
    figure.update_yaxes(
        tickvals=[*range(len(labels))],
        ticktext=labels,
        tickfont={"size": 11},
        ticklabelstandoff=4,
        range=[len(labels) - 0.4, -0.6],
        gridcolor="#f0f0f0",
        fixedrange=True,
    )
    rows_px = len(labels) * (ROW_PX + LINE_PX * (num_lines - 1))
    figure.update_layout(height=TOP_PX + rows_px + BOTTOM_PX, margin_b=BOTTOM_PX)
    return figure.update_layout(showlegend=False, hovermode="closest")
