"""Which samples of a source are taken, and in which order they are written."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_pipeline.sources import Source, SourceError


@dataclass(frozen=True)
class Selection:
    """All of it drawn with ``seed``, class by class.

    ``hold_out`` images of each class form the held-out slice; ``part`` says whether that slice is
    taken, or what remains. ``per_class``: so many of each class of what remains; None takes all.
    """

    per_class: int | None = None
    seed: int = 0
    hold_out: int = 0
    part: Literal["remaining", "held out"] = "remaining"


def select(source: Source, selection: Selection) -> NDArray[np.int64]:
    """Indices of the chosen samples in the order in which they are written, a shuffle.

    Raises:
        SourceError: a class with fewer samples than asked for.
    """
    shuffled = np.random.default_rng(selection.seed).permutation(len(source.labels))
    if selection.per_class is None and not selection.hold_out:
        return shuffled
    # Places within each class, in shuffled order: a stable sort keeps that order.
    labels = source.labels[shuffled]
    by_class = np.argsort(labels, kind="stable")
    num_per_class = np.bincount(labels, minlength=len(source.classes))
    starts = np.cumsum(num_per_class) - num_per_class
    places = np.empty(len(shuffled), dtype=np.int64)
    places[by_class] = np.arange(len(shuffled)) - np.repeat(starts, num_per_class)
    first, last = _range(source, selection, num_per_class)
    return shuffled[(places >= first) & (places < last)]


def _range(
    source: Source, selection: Selection, num_per_class: NDArray[np.int64]
) -> tuple[int, int]:
    """First and last place, the last excluded, within each class."""
    if selection.part == "held out":
        first, last, needed = 0, selection.hold_out, selection.hold_out + 1
    else:
        first = selection.hold_out
        last = len(source.labels) if selection.per_class is None else first + selection.per_class
        needed = first + (selection.per_class or 1)
    short = np.flatnonzero(num_per_class < needed)
    if len(short):
        name, count = source.classes[short[0]], num_per_class[short[0]]
        wanted = f"{selection.hold_out} held out and {needed - selection.hold_out} more"
        raise SourceError(
            f"class {name} has {count} images, fewer than the "
            f"{wanted if selection.hold_out else needed} asked for; ask for less per class"
        )
    return first, last
