"""Scales: map values of a parameter or the metric to coordinates on an axis, and label them."""

import json
import math
import textwrap
from collections.abc import Collection, Iterable, Sequence
from typing import Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from service.sweep.analysis import TrialRecord, is_accuracy, is_number

MAX_LABELS = 12
MAX_LABEL_LENGTH = 18
MIN_RATIO_FOR_LOG = 50.0
"""If the metric's maximum is more than this many times its minimum, its axis is logarithmic."""


class Scale(NamedTuple):
    """The axis of one parameter, or of the metric.

    The coordinate of a number is the number itself; that of any other value is the index of its
    JSON text in ``categories``. ``low`` and ``high``: smallest and largest coordinate.
    """

    name: str
    low: float
    high: float
    is_log: bool = False
    is_integer: bool = False
    in_percent: bool = False
    categories: tuple[str, ...] = ()

    def coordinate(self, value: object) -> float:
        """The value's coordinate on this axis."""
        if self.categories:
            return float(self.categories.index(_key(value)))
        assert isinstance(value, int | float)
        return float(value)

    def to_fraction(self, coordinate: float) -> float:
        """The position of a coordinate on the axis: 0 at ``low``, 1 at ``high``."""
        if self.low == self.high:
            return 0.5
        if self.is_log:
            return math.log(coordinate / self.low) / math.log(self.high / self.low)
        return (coordinate - self.low) / (self.high - self.low)

    def from_fraction(self, fraction: float) -> float:
        """The coordinate at a position on the axis; the inverse of ``to_fraction``."""
        if self.is_log:
            return self.low * (self.high / self.low) ** fraction
        return self.low + (self.high - self.low) * fraction

    def limits(self, below: float = 0.06, above: float = 0.06) -> tuple[float, float]:
        """The axis limits, with margins given as fractions of the axis length."""
        if self.categories:
            return self.low - 0.6, self.high + 0.6
        if self.low == self.high:
            margin = abs(self.low) * 0.1 or 1.0
            return self.low - margin, self.high + margin
        return self.from_fraction(-below), self.from_fraction(1.0 + above)

    def ticks(self) -> list[tuple[float, str]]:
        """Coordinates of the ticks, and their labels."""
        if self.categories:
            step = math.ceil(len(self.categories) / MAX_LABELS)
            labels = [_shortened(key) for key in self.categories]
            return [(float(index), label) for index, label in enumerate(labels)][::step]
        if self.low == self.high:
            coordinates = [self.low]
        elif self.is_log:
            coordinates = _log_ticks(self.low, self.high)
        else:
            coordinates = _linear_ticks(self.low, self.high, self.is_integer)
        factor = 100 if self.in_percent else 1
        return [(coordinate, f"{coordinate * factor:.6g}") for coordinate in coordinates]

    @property
    def label(self) -> str:
        """The axis label: the last two parts of the path, or the metric and its unit."""
        name = _escape_dollars(".".join(self.name.split(".")[-2:]))
        return f"{name} (%)" if self.in_percent else name

    @property
    def full_label(self) -> str:
        """The axis label, marked if the scale is logarithmic."""
        return f"{self.label} (log scale)" if self.is_log else self.label

    def wrapped_label(self, width: int) -> str:
        """The full label, wrapped to lines of ``width`` characters."""
        if len(self.full_label) <= width:
            return self.full_label
        name, _, unit = self.full_label.partition(" ")
        lines = textwrap.wrap(name.replace(".", ". ").replace("_", "_ "), width)
        wrapped = "\n".join(lines).replace("_ ", "_").replace(". ", ".")
        return f"{wrapped}\n{unit}" if unit else wrapped


def parameter_scales(
    records: Sequence[TrialRecord], log_params: Collection[str]
) -> tuple[Scale, ...]:
    """A scale for every parameter that any trial used, in the order of first use."""
    paths = dict.fromkeys(path for record in records for path in record.params)
    return tuple(
        _parameter_scale(
            path,
            [record.params[path] for record in records if path in record.params],
            path in log_params,
        )
        for path in paths
    )


def _parameter_scale(path: str, values: Sequence[object], is_log: bool) -> Scale:
    numbers = [value for value in values if isinstance(value, int | float) and is_number(value)]
    if len(numbers) < len(values):
        categories = tuple(dict.fromkeys(_key(value) for value in sorted(values, key=_order)))
        return Scale(path, 0.0, len(categories) - 1.0, categories=categories)
    low, high = float(min(numbers)), float(max(numbers))
    is_integer = all(isinstance(number, int) for number in numbers)
    return Scale(path, low, high, is_log=is_log and low > 0, is_integer=is_integer)


def metric_scale(values: Iterable[float], metric: str) -> Scale:
    """A scale for the metric; from 0 to 1 without values."""
    measured = list(values) or [0.0, 1.0]
    low, high = min(measured), max(measured)
    in_percent = is_accuracy(metric)
    is_log = not in_percent and low > 0 and high / low > MIN_RATIO_FOR_LOG
    return Scale(metric, low, high, is_log=is_log, in_percent=in_percent)


def set_up_axis(axes: Axes, which: Literal["x", "y"], scale: Scale, below: float = 0.06) -> None:
    """Set the scale, limits and ticks of one axis of a picture."""
    kind = "log" if scale.is_log else "linear"
    axes.set(**{f"{which}scale": kind, f"{which}lim": scale.limits(below)})
    axis = axes.xaxis if which == "x" else axes.yaxis
    coordinates, labels = zip(*scale.ticks(), strict=True)
    axis.set_ticks(coordinates, labels=labels)
    axis.set_ticks([], minor=True)


def _key(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _order(value: object) -> tuple[bool, float, str]:
    number = float(value) if isinstance(value, int | float) and is_number(value) else None
    return number is None, number or 0.0, _key(value)


def _shortened(key: str) -> str:
    """A category's label. The middle is cut out, because long values often differ at their ends."""
    text = key[1:-1] if key.startswith('"') else key
    if len(text) > MAX_LABEL_LENGTH:
        half = (MAX_LABEL_LENGTH - 2) // 2
        text = f"{text[:half]}..{text[-half:]}"
    return _escape_dollars(text)


def _escape_dollars(text: str) -> str:
    """Escape dollar signs, between which Matplotlib would render a formula."""
    return text.replace("$", r"\$")


def _linear_ticks(low: float, high: float, is_integer: bool = False) -> list[float]:
    locator = MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=is_integer, min_n_ticks=1)
    slack = (high - low) * 1e-9
    inside = [float(t) for t in locator.tick_values(low, high) if low - slack <= t <= high + slack]
    return inside or [low, high]


def _log_ticks(low: float, high: float) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in ((1,), (1, 3), (1, 2, 5)):
        candidates = [mantissa * 10.0**exponent for exponent in exponents for mantissa in mantissas]
        inside = [tick for tick in candidates if low * 0.999 <= tick <= high * 1.001]
        if len(inside) >= 3:
            return inside[:: math.ceil(len(inside) / 6)]
    return _linear_ticks(low, high)
