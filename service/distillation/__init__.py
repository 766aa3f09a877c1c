"""The method, Dynamic Temperature Knowledge Distillation (DTKD).

``temperature``: the temperatures of each sample. ``losses``: pure functions of logits.
``objective``: the loss of a micro-batch, from pixels.
"""

from service.distillation.losses import dtkd_loss, kd_loss
from service.distillation.temperature import Temperatures, matched_temperatures

__all__ = ["Temperatures", "dtkd_loss", "kd_loss", "matched_temperatures"]
