"""The method: losses as pure functions of logits, and the training objective built from them."""

from service.distillation.losses import dtkd_loss, kd_loss
from service.distillation.temperature import Temperatures, matched_temperatures

__all__ = ["Temperatures", "dtkd_loss", "kd_loss", "matched_temperatures"]
