"""Temperatures worth a search: where the teacher is neither nearly sure nor nearly even."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from service.distillation.logits import standardized
from service.probe.statistics import temperature_with_entropy
from service.spec.losses import TEMPERATURE_FIELDS, Losses, LossSection
from service.spec.losses.ls import Ls

LOW_ENTROPY, HIGH_ENTROPY = 0.1, 0.6
"""Mean entropies at the ends of the range, as shares of log K."""


class Range(NamedTuple):
    """A field of a spec, by path, and the temperatures to search for it."""

    path: str
    low: float
    high: float

    def __str__(self) -> str:
        """As in the space of a sweep."""
        return f'"{self.path}": {{"log": [{self.low:g}, {self.high:g}]}}'


def temperature_ranges(losses: Losses, logits: Tensor) -> Iterator[Range]:
    """A range for each temperature that is one number, of the losses that use the teacher.

    ``logits`` [N, K] of training crops, in float64. A field without a range of its own, because
    the predictions are too even or too sure at every temperature, is left out.
    """
    ends: dict[bool, tuple[float, float]] = {}
    for name, section in losses.active.items():
        is_standardized = isinstance(section, Ls) or getattr(section, "standardize", False)
        for path in _paths(section):
            if is_standardized not in ends:
                rows = standardized(logits) if is_standardized else logits
                ends[is_standardized] = _ends(rows)
            low, high = ends[is_standardized]
            if low < high:
                yield Range(f"losses.{name}.{path}", low, high)


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
