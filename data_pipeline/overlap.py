"""Finds images that two files, or two parts of a file, share; no pixels are read."""

import numpy as np
from numpy.typing import NDArray


def num_shared(digests: NDArray[np.void], others: NDArray[np.void]) -> int:
    """How many images of ``digests`` [N] are also among ``others`` [M]; both are of DIGEST.

    An image is the same if its bytes are those of the other one, in the source or as stored,
    whatever its name, label and position. So it is found where it was stored in another size or
    format, but not where its source was saved again by another program.
    """
    known = np.sort(np.concatenate([others["stored"], others["source"]]))
    is_shared = np.zeros(len(digests), dtype=bool)
    for name in ("stored", "source"):
        is_shared |= _are_in(digests[name], known)
    return int(is_shared.sum())


def _are_in(values: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which ``values`` occur in ``known``, which are ascending."""
    if not len(known):
        return np.zeros(len(values), dtype=bool)
    places = np.searchsorted(known, values)
    return known[np.minimum(places, len(known) - 1)] == values
