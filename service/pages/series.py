"""Series of a run over its epochs, as pictures of one run and of many draw them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from service.run.journal import Event, Kind

Series = tuple[tuple[float, float], ...]
"""Points (epochs done, value)."""

MAX_POINTS = 300
"""Of a line: more are not seen on a screen, and make the page large."""


class Timeline(NamedTuple):
    """Places of a run's events on an axis.

    ``steps_per_epoch``: None while no epoch is done, when the axis counts optimizer steps.
    """

    steps_per_epoch: float | None

    @property
    def counts_epochs(self) -> bool:
        """Whether the axis counts epochs."""
        return self.steps_per_epoch is not None

    @property
    def unit(self) -> str:
        """What the axis counts."""
        return "epoch" if self.counts_epochs else "optimizer step"

    def place(self, event: Event) -> float:
        """Epochs or steps done."""
        return event.step / (self.steps_per_epoch or 1.0)

    def series(self, events: Sequence[Event], kind: Kind, metric: str) -> Series:
        """The finite values of a metric; none if no event of the kind has it."""
        found = (
            (self.place(e), e.values[metric])
            for e in events
            if e.kind == kind
            if metric in e.values
        )
        return finite(tuple(found))


def timeline(events: Sequence[Event]) -> Timeline:
    """The timeline of a run's journal."""
    # An evaluation is at the end of an epoch, other events may be later.
    found = (event.step / event.epoch for event in events if event.epoch > 0 and event.step > 0)
    return Timeline(min(found, default=None))


def finite(series: Series) -> Series:
    """The points whose values are finite."""
    return tuple(point for point in series if math.isfinite(point[1]))


def thinned(series: Series, max_points: int = MAX_POINTS) -> Series:
    """At most this many points: the series, or means of neighbors; the last one stays as it is."""
    if len(series) <= max_points:
        return series
    *others, last = series
    parts = np.array_split(np.array(others), max_points - 1)
    means = (part.mean(axis=0).tolist() for part in parts)
    return (*((place, value) for place, value in means), last)


def binned(several: Sequence[Series], num_epochs: float, num_bins: int) -> Series:
    """Means of the points of several series within bins of equal numbers of epochs."""
    bins: dict[int, list[tuple[float, float]]] = {}
    for series in several:
        for epoch, value in finite(series):
            place = min(int(epoch / num_epochs * num_bins), num_bins - 1)
            bins.setdefault(place, []).append((epoch, value))
    means = (np.mean(bins[place], axis=0).tolist() for place in sorted(bins))
    return tuple((epoch, value) for epoch, value in means)
