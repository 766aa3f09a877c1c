"""Setting images of a file aside, without a second file: which ones, by label and seed."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class HeldOutSplit(NamedTuple):
    """Indices of a file's samples, rising: those that remain and those that were set aside."""

    remaining: Indices
    held_out: Indices


def split_held_out(labels: NDArray[np.int64], num_images: int, seed: int) -> HeldOutSplit:
    """Set ``num_images`` samples aside, each class with its share of them; a function of all three.

    ``labels`` [N].

    Raises:
        ValueError: see ``held_out_per_class``.
    """
    _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    quotas = held_out_per_class(counts, num_images)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    # Shuffled samples class by class: a stable sort keeps the shuffled order within each.
    by_class = shuffled[np.argsort(places[shuffled], kind="stable")]
    starts = np.cumsum(counts) - counts
    rank_in_class = np.arange(len(labels)) - np.repeat(starts, counts)
    is_held_out = rank_in_class < np.repeat(quotas, counts)
    return HeldOutSplit(np.sort(by_class[~is_held_out]), np.sort(by_class[is_held_out]))


def held_out_per_class(counts: NDArray[np.int64], num_images: int) -> NDArray[np.int64]:
    """How many of ``num_images`` each class gives, of the ``counts`` (all positive) that it has.

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
            f"the smallest class has {counts.min()} images: set fewer aside"
        )
    return quotas
