"""The exponential moving average (EMA) of a model's weights."""

import copy
from collections import defaultdict
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn


class _Tensors(NamedTuple):
    """Tensors of the average, and those of the model that they follow."""

    averages: list[Tensor]
    values: list[Tensor]


class WeightAverage:
    """The average of the weights after each update; BatchNorm's statistics are averaged alike.

    Its decay rises to ``decay``: after n updates it is min(decay, (1 + n) / (10 + n)), so that the
    first weights, which are random, are soon forgotten. Source: timm.utils.ModelEmaV3, and
    tf.train.ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.module = copy.deepcopy(model).requires_grad_(False)
        """The model with the averaged weights."""
        device = next(model.parameters()).device
        self.num_updates = torch.zeros((), dtype=torch.float64, device=device)
        """Updates so far, on the model's device."""
        self._model, self._decay = model, decay

    @cached_property
    def _by_dtype(self) -> dict[torch.dtype, _Tensors]:
        """Taken late, as buffers may be replaced."""
        found: dict[torch.dtype, _Tensors] = defaultdict(lambda: _Tensors([], []))
        for average, value in zip(_tensors(self.module), _tensors(self._model), strict=True):
            found[average.dtype].averages.append(average)
            found[average.dtype].values.append(value)
        return dict(found)

    @torch.no_grad()
    def update(self, is_skipped: Tensor) -> None:
        """Take the model's weights in, unless the scalar ``is_skipped`` is 1; it is not read."""
        decay = ((1.0 + self.num_updates) / (10.0 + self.num_updates)).clamp_max(self._decay)
        for dtype, (averages, values) in self._by_dtype.items():
            if dtype.is_floating_point:
                _approach(averages, values, 1.0 - decay, is_skipped)
            else:
                torch._foreach_copy_(averages, values)
        self.num_updates += 1.0 - is_skipped


def _approach(averages: list[Tensor], values: list[Tensor], share: Tensor, stays: Tensor) -> None:
    """a += share (v - a) for each pair, in place, unless ``stays`` is 1; neither is read.

    It is SGD's step of that rate, with weight decay 1, along v: torch's lerp of many tensors takes
    no weight that is on a GPU, and differences would take as much memory as the model.
    """
    torch._fused_sgd_(
        averages,
        values,
        [],
        weight_decay=1.0,
        momentum=0.0,
        lr=share.float(),
        dampening=0.0,
        nesterov=False,
        maximize=True,
        is_first_step=False,
        found_inf=stays,
    )


def _tensors(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
