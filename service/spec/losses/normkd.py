"""NormKD, temperatures from the standard deviation of the logits."""

from typing import ClassVar

from service.spec.fields import NonNegative, Positive
from service.spec.losses.base import LossSection


class Normkd(LossSection):
    """KD whose temperatures are the logits' standard deviations, arXiv 2308.00520.

    Published with ce.weight 0.1; on ImageNet with 0.5 for both.
    """

    reads_every_logit: ClassVar[bool] = True

    weight: NonNegative = 0.9
    """Weight in the total; 0 is as if the section were absent."""
    scale: Positive = 2.0
    """Temperature = scale x standard deviation of the sample's logits; 1 on ImageNet."""
