"""Selects samples: of a source for a file, and of a file for training and evaluation.

Both selections are random and by class. Whether a sample is before another of its class depends on
the seed and their keys alone: not on other samples, the order of the source, or the counts. So held
out parts of the same seed contain each other, and an image that is added moves at most one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.beton import BetonFile

Indices = NDArray[np.int64]
Keys = NDArray[np.uint64]


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


def select(labels: Indices, keys: Keys, classes: Sequence[str], selection: Selection) -> Indices:
    """Indices of the chosen samples of a source in the order in which they are written, a shuffle.

    The samples of a class are ranked by ``keys`` [N] and the seed. Those held out are the first,
    and those of ``per_class`` the last: a file of 60 of each class has none of the 20 that another
    file holds out, if a class has at least 80. ``labels`` [N] index into ``classes``.

    Raises:
        ValueError: a class has fewer samples than requested.
    """
    shuffled = np.random.default_rng(selection.seed).permutation(len(labels))
    if selection.per_class is None and not selection.hold_out:
        return shuffled
    num_per_class = np.bincount(labels, minlength=len(classes))
    _check_num_per_class(classes, num_per_class, selection)
    ranks = _ranks(labels, keys, num_per_class, selection.seed)
    if selection.part == "held out":
        is_chosen = ranks < selection.hold_out
    elif selection.per_class is None:
        is_chosen = ranks >= selection.hold_out
    else:
        is_chosen = ranks >= num_per_class[labels] - selection.per_class
    return shuffled[is_chosen[shuffled]]


def split_held_out(labels: Indices, keys: Keys, num_images: int, seed: int) -> HeldOutSplit:
    """Hold out ``num_images`` samples, of each class in proportion: the first by key and seed.

    ``labels`` [N] and ``keys`` [N] (see ``sample_keys``).

    Raises:
        ValueError: see ``num_held_out_per_class``.
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    quotas = num_held_out_per_class(counts, num_images)
    is_held_out = _ranks(classes, keys, counts, seed) < quotas[classes]
    return HeldOutSplit(np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out))


def sample_keys(file: BetonFile) -> Keys:
    """What ``split_held_out`` goes by, [N]: digests of the images in their source.

    A file that FFCV wrote has none; there they are the samples' positions.
    """
    if file.digests is None:
        return np.arange(file.num_samples, dtype=np.uint64)
    return np.ascontiguousarray(file.digests["source"])


def num_held_out_per_class(counts: Indices, num_images: int) -> Indices:
    """How many of ``num_images`` are held out of each class; ``counts`` [K] are positive.

    In proportion, rounded by largest remainders, ties to the lower label.

    Raises:
        ValueError: a class would have nothing left to train on.
    """
    # More than there are would overflow.
    num_held_out = min(num_images, int(counts.sum()))
    exact = counts * num_held_out / counts.sum()
    quotas = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - quotas), kind="stable")
    quotas[by_remainder[: num_held_out - quotas.sum()]] += 1
    if (quotas >= counts).any():
        raise ValueError(
            f"{num_images} images of {counts.sum()} would leave a class with nothing to train on; "
            f"the smallest class has {counts.min()} images: hold out fewer"
        )
    return quotas


def _ranks(labels: Indices, keys: Keys, num_per_class: Indices, seed: int) -> Indices:
    """Rank of each sample among those of its class, [N], in an order that is random by the seed.

    Which of two samples is first depends on their keys and the seed alone; samples with equal keys,
    such as copies of an image, are next to each other.
    """
    by_rank = np.lexsort((_mixed(keys ^ _mixed(np.array([seed % 2**64], np.uint64))), labels))
    starts = np.cumsum(num_per_class) - num_per_class
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[by_rank] = np.arange(len(labels)) - np.repeat(starts, num_per_class)
    return ranks


def _mixed(values: Keys) -> Keys:
    """A step of splitmix64, a bijection: Steele et al., OOPSLA 2014."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _check_num_per_class(
    classes: Sequence[str], num_per_class: Indices, selection: Selection
) -> None:
    """Check that each class has the held-out samples and those of the remaining part.

    Raises:
        ValueError: a class has fewer.
    """
    needed = selection.hold_out + (selection.per_class or 1)
    short = np.flatnonzero(num_per_class < needed)
    if len(short):
        name, count = classes[short[0]], num_per_class[short[0]]
        wanted = f"{selection.hold_out} held out and {needed - selection.hold_out} more"
        raise ValueError(
            f"class {name} has {count} images, fewer than the "
            f"{wanted if selection.hold_out else needed} requested; request fewer per class"
        )
