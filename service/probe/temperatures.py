"""Temperatures worth a search: where the teacher is neither nearly sure nor nearly even."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from service.distillation.logits import standardized
from service.probe.statistics import MAX_TEMPERATURE, MIN_TEMPERATURE, temperature_with_entropy
from service.spec.losses import TEMPERATURE_FIELDS, Losses, LossSection
from service.spec.losses.ls import Ls

LOW_ENTROPY, HIGH_ENTROPY = 0.1, 0.6
"""Mean entropies at the ends of the range, as shares of log K."""
MIN_FACTOR = 1.5
"""Ends of a range that are closer are not worth a search."""


class Range(NamedTuple):
    """A field of a spec, by path, and the temperatures to search for it."""

    path: str
    low: float
    high: float

    @property
    def is_wide(self) -> bool:
        """Whether there is something to search."""
        return self.high >= MIN_FACTOR * self.low

    @property
    def why_narrow(self) -> str:
        """Of a range that is not wide: what the teacher is like, and what to do instead."""
        if self.low <= MIN_TEMPERATURE:
            return (
                f"the teacher is flatter than {HIGH_ENTROPY:.0%} of log K at {self.high:g} already:"
                " set 1, and prefer a teacher that was trained longer, or without soft targets"
            )
        if self.high >= MAX_TEMPERATURE:
            return (
                f"the teacher is surer than {LOW_ENTROPY:.0%} of log K up to {self.low:g}: use "
                "standardized logits (kd.standardize, ls), or a less confident teacher"
            )
        return f"set {self.high:g}: the entropy rises from one end to the other close to it"

    def __str__(self) -> str:
        """As in the space of a sweep."""
        return f'"{self.path}": {{"log": [{self.low:g}, {self.high:g}]}}'


def temperature_ranges(losses: Losses, logits: Tensor) -> Iterator[Range]:
    """A range for each temperature that is one number, of the losses that use the teacher.

    ``logits`` [N, K] of training crops, in float64. Where the predictions are too even or too sure
    at every temperature, the range is not wide.
    """
    ends: dict[bool, tuple[float, float]] = {}
    for name, section in losses.active.items():
        is_standardized = isinstance(section, Ls) or getattr(section, "standardize", False)
        for path in _paths(section):
            if is_standardized not in ends:
                rows = standardized(logits) if is_standardized else logits
                ends[is_standardized] = _ends(rows)
            yield Range(f"losses.{name}.{path}", *ends[is_standardized])


def _paths(section: LossSection) -> Iterator[str]:
    """Fields with a temperature that is a number, from the section on."""
    for field in TEMPERATURE_FIELDS:
        value = getattr(section, field, None)
        if isinstance(value, float):
            yield field
        elif isinstance(getattr(value, "base_temperature", None), float):
            yield f"{field}.base_temperature"


def _ends(logits: Tensor) -> tuple[float, float]:
    low, high = (temperature_with_entropy(logits, one) for one in (LOW_ENTROPY, HIGH_ENTROPY))
    return float(f"{low:.2g}"), float(f"{high:.2g}")
