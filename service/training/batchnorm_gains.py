"""By how much a step changes BatchNorm's running statistics, whose layers may be called repeatedly.

With momentum m, the k updates of k calls leave (1 - m)^k of what was there; the gain is the rest,
and the i-th call's share in it is m (1 - m)^(k - i) / gain. A cumulative average (momentum None) of
n updates has m = 1 / n: its gain is k / (n + k), and all calls have equal shares.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

BatchNorm = nn.modules.batchnorm._BatchNorm


def momentum_of_call(momentum: float | None, num_calls: int) -> float:
    """Share of the last call in the mean of ``num_calls``; exactly 1 for the first."""
    # Equal shares, also as the limit for momentum 0.
    return momentum / gain(momentum, num_calls) if momentum else 1 / num_calls


def gain(momentum: float, num_calls: int) -> float:
    """The share of what was there that this many updates replace."""
    return momentum if num_calls == 1 else 1.0 - (1.0 - momentum) ** num_calls


class _Calls(NamedTuple):
    """On the device: the gain of each value, 0 in cumulative averages; the calls of each layer."""

    gains: Tensor
    num_calls: Tensor


class UpdateGains:
    """The gain of each of the tracked values, which are a mean and a variance for each channel.

    ``values``: all of them, one after the other.
    """

    def __init__(self, layers: Sequence[BatchNorm], values: Tensor):
        self._momenta, self._values = [layer.momentum for layer in layers], values
        self.has_cumulative = None in self._momenta
        places = torch.arange(len(layers))
        num_values = torch.tensor([2 * layer.num_features for layer in layers], dtype=torch.int64)
        self._layers = places.repeat_interleave(num_values).to(values.device)
        self._is_cumulative = torch.tensor(
            [momentum is None for momentum in self._momenta], device=values.device
        )
        self._known: dict[tuple[int, ...], _Calls] = {}

    def of(self, num_calls: Sequence[int], counters: Tensor) -> tuple[Tensor, Tensor]:
        """The gains, and what ``counters`` of each layer's updates increase by; none is read."""
        calls = self._calls(tuple(num_calls))
        if not self.has_cumulative:
            return calls
        # Layers that are not called keep what they have.
        shares = calls.num_calls / (counters + calls.num_calls).clamp_min(1)
        cumulative = torch.where(self._is_cumulative, shares, 0.0)[self._layers]
        return calls.gains + cumulative.to(calls.gains), calls.num_calls

    def _calls(self, num_calls: tuple[int, ...]) -> _Calls:
        # The same in all steps, so that nothing is copied to the device.
        if num_calls not in self._known:
            pairs = zip(self._momenta, num_calls, strict=True)
            gains = torch.tensor([gain(m or 0.0, n) for m, n in pairs], dtype=torch.float64)
            device = self._values.device
            counts = torch.tensor(num_calls, dtype=torch.int64, device=device)
            of_values = gains.to(device)[self._layers].to(self._values)
            self._known[num_calls] = _Calls(of_values, counts)
        return self._known[num_calls]
