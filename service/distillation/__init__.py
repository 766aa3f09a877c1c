"""The method: pure functions of logits, and the task that applies them to a batch."""

from service.distillation.losses import dtkd_loss, kd_loss
from service.distillation.temperature import Temperatures, matched_temperatures

__all__ = ["Temperatures", "dtkd_loss", "kd_loss", "matched_temperatures"]
