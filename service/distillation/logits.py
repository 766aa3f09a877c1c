"""Which logits are predictions."""

import torch
from torch import Tensor


def are_valid(logits: Tensor) -> Tensor:
    """Whether each row of the logits [B, K] is a prediction; [B], bool.

    It is not if one of its logits is NaN or +inf, or if all are -inf: their softmax is NaN. A logit
    of -inf gives its class the probability 0, as a mask of classes does.
    """
    # The maximum of a row with a NaN is NaN.
    return torch.isfinite(logits.amax(dim=1))
