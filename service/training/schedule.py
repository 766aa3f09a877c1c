"""Learning rate and distillation warm-up as pure functions of the step."""

import math

from service.spec_sections import Schedule


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


def distillation_warmup(epoch: int, warmup_epochs: float) -> float:
    """Weight of the distillation losses in ``epoch`` (from 0), min((epoch + 1) / warm-up, 1)."""
    return 1.0 if warmup_epochs <= 0 else min((epoch + 1) / warmup_epochs, 1.0)
