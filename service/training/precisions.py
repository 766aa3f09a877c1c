"""Number formats of forward passes, as torch has them."""

import torch

from service.run.execution import NumberFormat

_AUTOCAST_DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast_dtype(precision: NumberFormat) -> torch.dtype | None:
    """What autocast computes in; None for float32, without autocast."""
    return _AUTOCAST_DTYPES[precision]
