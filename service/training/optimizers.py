"""The optimizer from its section of the spec."""

from typing import Any

import torch
from torch import nn

from service.spec.optimization import AdamW, AnyOptimizer, Lars, Sgd
from service.training.parameter_groups import parameter_groups
from service.training.trust_ratio import Lamb as LambOptimizer
from service.training.trust_ratio import Lars as LarsOptimizer


def build_optimizer(model: nn.Module, section: AnyOptimizer) -> torch.optim.Optimizer:
    """The section's optimizer over the model's parameters, all of which are on one device.

    Each makes no update, and changes no state, where its attribute ``found_inf`` is a tensor 1.0 on
    that device.
    """
    groups, rate = parameter_groups(model, section), section.learning_rate
    if isinstance(section, Sgd):
        return _build_sgd(groups, section)
    if isinstance(section, AdamW):
        return torch.optim.AdamW(groups, lr=rate, betas=section.betas, fused=True)
    if isinstance(section, Lars):
        return LarsOptimizer(
            groups,
            lr=rate,
            momentum=section.momentum,
            nesterov=section.nesterov,
            trust_coefficient=section.trust_coefficient,
        )
    return LambOptimizer(
        groups,
        lr=rate,
        betas=section.betas,
        eps=section.epsilon,
        max_trust_ratio=section.max_trust_ratio,
    )


def _build_sgd(groups: list[dict[str, Any]], section: Sgd) -> torch.optim.SGD:
    optimizer = torch.optim.SGD(
        groups,
        lr=section.learning_rate,
        momentum=section.momentum,
        nesterov=section.nesterov,
        fused=True,
    )
    if section.momentum > 0:
        # torch allocates them with the first step, and fills them only if that makes an update:
        # after a first step with found_inf, the second would start from what the memory had.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use ``rate`` for all parameters, times the share of their group, ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
