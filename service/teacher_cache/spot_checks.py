"""Which batches that could be read are computed all the same, to compare: 0.1 % of them.

Whole batches, as they were computed when they were stored: other shapes would be rounded otherwise,
and compiled anew.
"""

import numpy as np

from data_pipeline.compiled.counter_rng import uniforms

SPOT_CHECK_STREAM = 1003
SHARE = 0.001
# Of a sample's largest logit: as the same network differs between machines and batch sizes.
TOLERANCES = {"float32": 0.005, "bfloat16": 0.05, "float16": 0.05}


def is_spot_check(seed: int, epoch: int, step: int, num_steps: int) -> bool:
    """Whether a step of an epoch is checked: one in a thousand, and at least one per epoch."""
    epoch_and_step = np.array([0, step])
    numbers = uniforms(epoch_and_step, seed, epoch, SPOT_CHECK_STREAM, 2)
    return step == int(num_steps * numbers[0, 0]) or bool(numbers[1, 1] < SHARE)
