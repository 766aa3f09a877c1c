"""Softmax temperatures over training: means of batches, in bands of their percentiles."""

import re
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from service.pages.figures import wrapped
from service.pages.lines import COLORS, FILLS, Place, add_band, add_line, line_style
from service.pages.series import Series, Timeline
from service.run.journal import Event

TEMPERATURE = re.compile(r".*/temperature|.*temperature_(mean|p5|p95)")
"""Names of metrics that are temperatures: of a step, or statistics over the samples of a batch."""
MEAN, LOW, HIGH = "_mean", "_p5", "_p95"
"""End the names of the metrics of a batch's temperatures: mean, 5th and 95th percentile."""
ONE_OF_ALL = "/temperature"
"""Ends the name of the metric that is the temperature of all samples."""
NOTE = "of a step, or mean and 5th to 95th percentile of a batch"


def temperature_series(events: Sequence[Event], axis: Timeline) -> dict[str, Series]:
    """A run's temperatures over training, by the metric's name."""
    names = dict.fromkeys(name for e in events if e.kind == "interval" for name in e.values)
    found = {
        name: axis.series(events, "interval", name) for name in names if TEMPERATURE.fullmatch(name)
    }
    return {name: series for name, series in found.items() if series}


def add_temperatures(
    figure: go.Figure,
    place: Place,
    series: Mapping[str, Series],
    owner: str = "",
    unit: str = "epoch",
) -> None:
    """Temperatures by the metric's name: means as lines, in bands of the percentiles, if any.

    ``owner``: begins the texts to hover over, as Plotly reads it. ``unit``: of the axis.
    """
    for metric in series:
        if metric.endswith(MEAN):
            name = metric.removesuffix(MEAN)
        elif metric.endswith(ONE_OF_ALL):
            name = metric
        else:
            continue
        side = next((side for side in ("student", "teacher") if side in name), "both")
        low, high = series.get(name + LOW, ()), series.get(name + HIGH, ())
        if low and high:
            add_band(figure, place, low, high, FILLS[side])
        text = wrapped(name, 60)
        style = line_style(side, COLORS[side], 2)
        hover = f"{owner}, {text}" if owner else text
        add_line(figure, place, series[metric], hover, style, f"{unit} %{{x:.3~g}}, %{{y:.3g}}")
