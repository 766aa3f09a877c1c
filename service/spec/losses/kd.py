"""KD, knowledge distillation with one temperature."""

from service.spec.fields import NonNegative
from service.spec.losses.temperatures import SoftenedLoss


class Kd(SoftenedLoss):
    """T^2 KL of the softened predictions, arXiv 1503.02531; published with ce.weight 0.1."""

    weight: NonNegative = 0.9
    """Weight in the total; 0 is as if the section were absent."""
