"""Selects samples: of a source for a file, and of a file for training and evaluation.

Both selections are random, by class, and functions of the labels, a seed and counts alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """Which samples of a source are written to a file, chosen with ``seed``.

    Attributes:
        per_class: number of images of each class in the remaining part; None for all.
        seed: of the random choice and of the order.
        hold_out: number of images of each class in the held-out part.
        part: which of the two parts is written.
    """

    per_class: int | None = None
    seed: int = 0
    hold_out: int = 0
    part: Literal["remaining", "held out"] = "remaining"


class HeldOutSplit(NamedTuple):
    """Indices of a file's samples, ascending: those that remain and those that are held out."""

    remaining: Indices
    held_out: Indices


def select(labels: Indices, classes: Sequence[str], selection: Selection) -> Indices:
    """Indices of the chosen samples of a source in the order in which they are written, a shuffle.

    ``labels`` [N] index into ``classes``.

    Raises:
        ValueError: a class has fewer samples than requested.
    """
    if selection.per_class is None and not selection.hold_out:
        return np.random.default_rng(selection.seed).permutation(len(labels))
    num_per_class = np.bincount(labels, minlength=len(classes))
    shuffled, positions = _shuffled_positions(labels, num_per_class, selection.seed)
    first, last = _range_per_class(classes, num_per_class, len(labels), selection)
    return shuffled[(positions >= first) & (positions < last)]


def split_held_out(labels: Indices, num_images: int, seed: int) -> HeldOutSplit:
    """Hold out ``num_images`` samples, of each class in proportion; a function of its arguments.

    ``labels`` [N].

    Raises:
        ValueError: see ``num_held_out_per_class``.
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    quotas = num_held_out_per_class(counts, num_images)
    shuffled, positions = _shuffled_positions(classes, counts, seed)
    is_held_out = positions < quotas[classes[shuffled]]
    return HeldOutSplit(np.sort(shuffled[~is_held_out]), np.sort(shuffled[is_held_out]))


def num_held_out_per_class(counts: Indices, num_images: int) -> Indices:
    """How many of ``num_images`` are held out of each class; ``counts`` [K] are positive.

    In proportion, rounded by largest remainders, ties to the lower label.

    Raises:
        ValueError: a class would have nothing left to train on.
    """
    exact = counts * num_images / counts.sum()
    quotas = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - quotas), kind="stable")
    quotas[by_remainder[: num_images - quotas.sum()]] += 1
    if (quotas >= counts).any():
        raise ValueError(
            f"{num_images} images of {counts.sum()} would leave a class with nothing to train on; "
            f"the smallest class has {counts.min()} images: hold out fewer"
        )
    return quotas


def _shuffled_positions(
    labels: Indices, num_per_class: Indices, seed: int
) -> tuple[Indices, Indices]:
    """All samples shuffled, [N], and the position of each among those of its class, [N]."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    # A stable sort by class keeps the shuffled order within each class.
    by_class = np.argsort(labels[shuffled], kind="stable")
    starts = np.cumsum(num_per_class) - num_per_class
    positions = np.empty(len(shuffled), dtype=np.int64)
    positions[by_class] = np.arange(len(shuffled)) - np.repeat(starts, num_per_class)
    return shuffled, positions


def _range_per_class(
    classes: Sequence[str], num_per_class: Indices, num_samples: int, selection: Selection
) -> tuple[int, int]:
    """First and last position within each class that is taken, the last excluded."""
    if selection.part == "held out":
        first, last, needed = 0, selection.hold_out, selection.hold_out + 1
    else:
        first = selection.hold_out
        last = num_samples if selection.per_class is None else first + selection.per_class
        needed = first + (selection.per_class or 1)
    short = np.flatnonzero(num_per_class < needed)
    if len(short):
        name, count = classes[short[0]], num_per_class[short[0]]
        wanted = f"{selection.hold_out} held out and {needed - selection.hold_out} more"
        raise ValueError(
            f"class {name} has {count} images, fewer than the "
            f"{wanted if selection.hold_out else needed} requested; request fewer per class"
        )
    return first, last
