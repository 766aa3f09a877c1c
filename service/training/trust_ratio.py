"""Optimizers for large batches whose rate depends on each tensor's norm: LARS and LAMB.

Their groups have ``is_adapted``: whether the trust ratio applies; else they are SGD and AdamW. As
torch's fused optimizers, they make no update and change no state where ``found_inf``, an attribute
that is a float32 scalar on the parameters' device, is 1.0; nothing is read by the host.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer


class _GroupTensors(NamedTuple):
    """Parameters of a group that have gradients, and of each the gradient and the states."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    states: list[list[Tensor]]


class _TrustRatioOptimizer(Optimizer):
    """Runs ``_new_values`` for each group, and writes what it returns unless ``found_inf``."""

    _state_names: tuple[str, ...]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update the parameters that have gradients."""
        assert closure is None, "gradients are computed before"
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            tensors = self._tensors_of(group)
            if tensors.parameters:
                current = [tensors.parameters, *tensors.states]
                for old, new in zip(current, self._new_values(group, tensors), strict=True):
                    _assign(old, new, found_inf)

    def _tensors_of(self, group: dict[str, Any]) -> _GroupTensors:
        parameters = [each for each in group["params"] if each.grad is not None]
        for parameter in parameters:
            state = self.state[parameter]
            for name in self._state_names:
                if name not in state:
                    is_count = name == "num_updates"
                    like = parameter.new_zeros(()) if is_count else torch.zeros_like(parameter)
                    state[name] = like
        gradients = [each.grad for each in parameters]
        states = [[self.state[each][name] for each in parameters] for name in self._state_names]
        return _GroupTensors(parameters, gradients, states)

    def _new_values(self, group: dict[str, Any], tensors: _GroupTensors) -> list[list[Tensor]]:
        """New parameters and new states, in new memory."""
        raise NotImplementedError


class Lars(_TrustRatioOptimizer):
    """SGD with momentum whose gradient, weight decay included, is multiplied by a trust ratio.

    The ratio is coefficient x |w| / (|g| + weight_decay x |w|), 1 where a norm is 0: You et al.,
    arXiv 1708.03888, with the momentum of the scaled gradient, as in timm.
    """

    _state_names = ("momentum_buffer",)

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        nesterov: bool = False,
        trust_coefficient: float = 0.001,
    ):
        defaults = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": 0.0}
        super().__init__(
            groups, {**defaults, "trust_coefficient": trust_coefficient, "is_adapted": True}
        )

    def _new_values(self, group: dict[str, Any], tensors: _GroupTensors) -> list[list[Tensor]]:
        parameters, decay, momentum = tensors.parameters, group["weight_decay"], group["momentum"]
        updates = torch._foreach_add(tensors.gradients, parameters, alpha=decay)
        if group["is_adapted"]:
            norms = torch._foreach_norm(parameters)
            denominators = torch._foreach_norm(tensors.gradients)
            torch._foreach_add_(denominators, norms, alpha=decay)
            torch._foreach_mul_(norms, group["trust_coefficient"])
            torch._foreach_mul_(updates, _ratios(norms, denominators))
        buffers = torch._foreach_mul(tensors.states[0], momentum)
        torch._foreach_add_(buffers, updates)
        if group["nesterov"]:
            torch._foreach_add_(updates, buffers, alpha=momentum)
        else:
            updates = buffers
        return [list(torch._foreach_add(parameters, updates, alpha=-group["lr"])), list(buffers)]


class Lamb(_TrustRatioOptimizer):
    """AdamW whose update, weight decay included, is multiplied by |w| / |update|.

    The ratio is 1 where a norm is 0: You et al., arXiv 1904.00962, algorithm 2.
    """

    _state_names = ("exp_avg", "exp_avg_sq", "num_updates")

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        max_trust_ratio: float | None = None,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "is_adapted": True}
        super().__init__(groups, {**defaults, "max_trust_ratio": max_trust_ratio})

    def _new_values(self, group: dict[str, Any], tensors: _GroupTensors) -> list[list[Tensor]]:
        parameters, gradients = tensors.parameters, tensors.gradients
        (beta1, beta2), old = group["betas"], tensors.states
        first = torch._foreach_lerp(old[0], gradients, 1.0 - beta1)
        second = torch._foreach_mul(old[1], beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1.0 - beta2)
        counts = torch._foreach_add(old[2], 1.0)
        roots = torch._foreach_div(second, _corrections(beta2, counts))
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        updates = torch._foreach_div(first, _corrections(beta1, counts))
        torch._foreach_div_(updates, roots)
        torch._foreach_add_(updates, parameters, alpha=group["weight_decay"])
        if group["is_adapted"]:
            ratios = _ratios(torch._foreach_norm(parameters), torch._foreach_norm(updates))
            if group["max_trust_ratio"] is not None:
                torch._foreach_clamp_max_(ratios, group["max_trust_ratio"])
            torch._foreach_mul_(updates, ratios)
        new = torch._foreach_add(parameters, updates, alpha=-group["lr"])
        return [list(each) for each in (new, first, second, counts)]


def _corrections(beta: float, counts: Iterable[Tensor]) -> list[Tensor]:
    """1 - beta^count of each count."""
    # In float64: with beta 0.999, float32 would lose four digits of the first ones.
    values = 1.0 - beta ** torch.stack(list(counts)).double()
    return list(values.float().unbind())


def _ratios(numerators: Iterable[Tensor], denominators: Iterable[Tensor]) -> list[Tensor]:
    """Quotients of each pair of scalars; 1 where one of them is 0."""
    above, below = torch.stack(list(numerators)), torch.stack(list(denominators))
    quotients = torch.where((above > 0) & (below > 0), above / below, 1.0)
    return list(quotients.unbind())


def _assign(current: list[Tensor], new: list[Tensor], found_inf: Tensor | None) -> None:
    """Write ``new`` to ``current``, unless ``found_inf`` is 1."""
    if found_inf is None:
        torch._foreach_copy_(current, new)
        return
    makes_update = found_inf == 0
    for old, value in zip(current, new, strict=True):
        # Not a product with 0, which would be NaN where the value is.
        torch.where(makes_update, value, old, out=old)
