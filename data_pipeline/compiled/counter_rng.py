"""Counter-based random numbers: a hash of (seed, epoch, sample, view, stream, counter), no state.

A sample's numbers do not depend on which thread or worker computes them, on when, or on what was
computed before. Every function is compiled and may be called from compiled code.

Source: splitmix64, Steele et al., OOPSLA 2014.
"""

import math

import numpy as np
from numpy.typing import NDArray

from data_pipeline.compiled.compilation import compiled

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
# Views of a sample, which take the bit above those of the sample's index, and its repeats in an
# epoch, which take the bits above that: so no two of them have the same key in an epoch.
WEAK_VIEW, STRONG_VIEW = 0, 1
VIEW_SHIFT = np.uint64(48)
REPEAT_SHIFT = 49


@compiled
def mix(value: np.uint64) -> np.uint64:
    """Finalizer of splitmix64: every input bit reaches every output bit."""
    value = (value ^ (value >> np.uint64(30))) * MIX_1
    value = (value ^ (value >> np.uint64(27))) * MIX_2
    return value ^ (value >> np.uint64(31))


@compiled
def sample_key(seed: int, epoch: int, index: int, view: int = WEAK_VIEW) -> np.uint64:
    """Key of the random numbers of one view of the sample ``index`` in one epoch.

    What does not differ between views, such as the order of the samples, uses WEAK_VIEW.
    """
    key = mix(np.uint64(seed) + GOLDEN)
    key = mix(key ^ (np.uint64(epoch) + GOLDEN))
    return mix(key ^ (np.uint64(index) + (np.uint64(view) << VIEW_SHIFT) + GOLDEN))


@compiled
def stream_key(key: np.uint64, stream: int) -> np.uint64:
    """Key of another stream of random numbers of the same sample.

    ``key``: of the sample (see ``sample_key``); ``stream``: one number per purpose, as one kind of
    augmentation.
    """
    return mix(key ^ (np.uint64(stream) * GOLDEN))


@compiled
def uniform(key: np.uint64, counter: int) -> float:
    """Random number ``counter`` (from 0) of a key, uniform in [0, 1)."""
    bits = mix(key + np.uint64(counter + 1) * GOLDEN)
    # The 53 highest bits divided by 2**53: a float64 holds them exactly.
    return np.float64(bits >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled
def uniforms(
    indices: NDArray[np.int64], seed: int, epoch: int, stream: int, count: int
) -> NDArray[np.float64]:
    """The first ``count`` random numbers of each sample in one stream, uniform in [0, 1).

    ``indices`` [B]: the samples. Returns [B, count]: row b has the numbers 0 to ``count`` - 1 of
    the key of (seed, epoch, indices[b], stream).
    """
    numbers = np.empty((len(indices), count))
    for slot in range(len(indices)):
        key = stream_key(sample_key(seed, epoch, indices[slot]), stream)
        for counter in range(count):
            numbers[slot, counter] = uniform(key, counter)
    return numbers


@compiled
def rectangle(
    key: np.uint64, counter: int, area: int, scale: NDArray[np.float64], ratio: NDArray[np.float64]
) -> tuple[int, int]:
    """Sides of a random box, (first, second), rounded to whole pixels; they may be 0 or too large.

    ``area``: of the image, in pixels. The box has a share of it that is uniform in ``scale`` [2]
    (minimum, maximum), and a ratio first / second that is log-uniform in ``ratio`` [2]. Uses the
    random numbers ``counter`` and ``counter + 1`` of ``key``. Source: Szegedy et al., arXiv
    1409.4842, and Zhong et al., arXiv 1708.04896, as in torchvision.
    """
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    target = area * (scale[0] + (scale[1] - scale[0]) * uniform(key, counter))
    aspect = math.exp(log_low + (log_high - log_low) * uniform(key, counter + 1))
    return round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
