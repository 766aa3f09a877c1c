"""The learning rate of each step, from the spec's schedule."""

import math

from service.spec.optimization import Schedule


def learning_rate(schedule: Schedule, peak: float, step: int, num_steps_per_epoch: int) -> float:
    """Learning rate of optimizer step ``step`` (from 0), before a group's own scale.

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
    if schedule.kind == "one_cycle":
        return peak * _one_cycle(schedule, step, schedule.num_epochs * num_steps_per_epoch)
    progress = (epochs - schedule.warmup_epochs) / (schedule.num_epochs - schedule.warmup_epochs)
    remaining = 1.0 - progress
    if schedule.kind == "cosine":
        remaining = _cosine(progress)
    elif schedule.kind == "poly":
        remaining **= schedule.power
    return peak * (schedule.final_fraction + (1.0 - schedule.final_fraction) * remaining)


def _one_cycle(schedule: Schedule, step: int, num_steps: int) -> float:
    """Share of the peak; the last step has the final share, as in torch's OneCycleLR."""
    top = max(0.0, schedule.rise_fraction * num_steps - 1)
    if step < top:
        start = schedule.initial_fraction
        return start + (1.0 - start) * (1.0 - _cosine(step / top))
    end = schedule.final_fraction
    return end + (1.0 - end) * _cosine((step - top) / max(num_steps - 1 - top, 1.0))


def _cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))
