"""The exponential moving average (EMA) of a model's weights."""

import copy
from functools import cached_property

import torch
from torch import Tensor, nn


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
    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Tensors of the average and of the model; taken late, as buffers may be replaced."""
        return list(zip(_tensors(self.module), _tensors(self._model), strict=True))

    @cached_property
    def _floating(self) -> tuple[list[Tensor], list[Tensor]]:
        return self._tensors_that(are_floating=True)

    @cached_property
    def _others(self) -> tuple[list[Tensor], list[Tensor]]:
        return self._tensors_that(are_floating=False)

    def _tensors_that(self, *, are_floating: bool) -> tuple[list[Tensor], list[Tensor]]:
        pairs = [pair for pair in self._pairs if pair[0].is_floating_point() == are_floating]
        return [average for average, _ in pairs], [value for _, value in pairs]

    @torch.no_grad()
    def update(self, is_skipped: Tensor) -> None:
        """Take the model's weights in, unless the scalar ``is_skipped`` is 1; it is not read."""
        averages, values = self._floating
        decay = ((1.0 + self.num_updates) / (10.0 + self.num_updates)).clamp_max(self._decay)
        taken = 1.0 - is_skipped
        steps = torch._foreach_sub(values, averages)
        torch._foreach_mul_(steps, ((1.0 - decay) * taken).float())
        torch._foreach_add_(averages, steps)
        averages, values = self._others
        if averages:
            torch._foreach_copy_(averages, values)
        self.num_updates += taken


def _tensors(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
