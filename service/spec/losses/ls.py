"""Logit standardization, alone."""

from typing import ClassVar

from service.spec.fields import NonNegative
from service.spec.losses.base import LossSection
from service.spec.losses.temperatures import Temperature


class Ls(LossSection):
    """KD of standardized logits, arXiv 2403.01427; published with ce.weight 0.1, on ImageNet 1."""

    reads_every_logit: ClassVar[bool] = True

    weight: NonNegative = 9.0
    """Weight in the total; 0 is as if the section were absent."""
    temperature: Temperature = 2.0
    """Divides the standardized logits."""
