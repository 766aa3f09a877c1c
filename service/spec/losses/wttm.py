"""WTTM, weighted transformed teacher matching."""

from service.spec.fields import NonNegative
from service.spec.losses.base import LossSection
from service.spec.losses.temperatures import Temperature


class Wttm(LossSection):
    """TTM with more weight on samples that the teacher is unsure of, arXiv 2402.11148.

    Published with ce.weight 1.
    """

    weight: NonNegative = 1.6
    """Weight in the total; 0 is as if the section were absent. 3.5 for R50 -> MobileNetV1."""
    temperature: Temperature = 1.25
    """The teacher's softmax temperature, 1 / gamma in the paper; 1.43 for R50 -> MobileNetV1."""
