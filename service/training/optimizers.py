"""Optimizer, learning-rate schedule, gradient norm and EMA from the spec's sections."""

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from service.spec.optimization import AdamW, Schedule, Sgd


def build_optimizer(model: nn.Module, section: Sgd | AdamW) -> torch.optim.Optimizer:
    """SGD or AdamW over the model's parameters, with the section's weight decay."""
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
    """One group with weight decay and, unless norms and biases are decayed too, one without.

    Norms and biases are the parameters with one axis.
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


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of the weights; BatchNorm's statistics are averaged alike."""
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use ``rate`` for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def learning_rate(schedule: Schedule, peak: float, step: int, num_steps_per_epoch: int) -> float:
    """Learning rate of optimizer step ``step`` (from 0).

    Multi-step schedules change between epochs; the others, and the warm-up, change every step.
    """
    epochs = step / num_steps_per_epoch
    if epochs < schedule.warmup_epochs:
        # Counted from one, so that the first step already learns.
        return peak * min(1.0, (step + 1) / (schedule.warmup_epochs * num_steps_per_epoch))
    if schedule.kind == "multistep":
        epoch = step // num_steps_per_epoch
        num_decays = sum(epoch >= milestone for milestone in schedule.milestones)
        return peak * schedule.decay_factor**num_decays
    progress = (epochs - schedule.warmup_epochs) / (schedule.num_epochs - schedule.warmup_epochs)
    remaining = 1.0 - progress
    if schedule.kind == "cosine":
        remaining = 0.5 * (1.0 + math.cos(math.pi * progress))
    return peak * (schedule.final_fraction + (1.0 - schedule.final_fraction) * remaining)
