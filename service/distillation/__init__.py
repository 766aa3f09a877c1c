"""The method: pure functions of logits, and the objective that applies them to a micro-batch."""

from service.distillation.losses import dtkd_loss, kd_loss
from service.distillation.temperature import Temperatures, matched_temperatures

__all__ = ["Temperatures", "dtkd_loss", "kd_loss", "matched_temperatures"]
