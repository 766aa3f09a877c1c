"""Optimizer, gradient norm and weight averaging from the spec's sections."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from service.spec_sections import AdamW, Sgd


def build_optimizer(model: nn.Module, section: Sgd | AdamW) -> torch.optim.Optimizer:
    """SGD or AdamW over the model's parameters, weight decay as the section says."""
    groups = parameter_groups(model, section.weight_decay, section.decay_norms_and_biases)
    if isinstance(section, Sgd):
        return torch.optim.SGD(
            groups,
            lr=section.learning_rate,
            momentum=section.momentum,
            nesterov=section.nesterov,
            foreach=True,
        )
    return torch.optim.AdamW(groups, lr=section.learning_rate, betas=section.betas, foreach=True)


def parameter_groups(
    model: nn.Module, weight_decay: float, decay_norms_and_biases: bool
) -> list[dict[str, object]]:
    """One group with weight decay and, where norms and biases are spared, one without.

    Norms and biases are the parameters of one axis.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if decay_norms_and_biases:
        return [{"params": parameters, "weight_decay": weight_decay}]
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def gradient_norm(model: nn.Module) -> Tensor:
    """Global L2 norm of the gradients, a scalar on their device."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def build_average(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of weights; BatchNorm's statistics are averaged alike."""
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
