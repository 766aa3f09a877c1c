"""CRLD, cross-view consistency regularization."""

from typing import ClassVar

from service.spec.fields import Fraction, NonNegative
from service.spec.losses.base import LossSection
from service.spec.losses.temperatures import Temperature


class Crld(LossSection):
    """KD within and across two views, where the teacher is sure, arXiv 2412.16493.

    Published with ce.views both; with ce.weight 2 on ImageNet.
    """

    part_weights: ClassVar[tuple[str, ...]] = ("within", "across")

    within: NonNegative = 2.0
    """Weight of KD with the teacher's prediction for the same view; 0.5 to 2 on CIFAR-100."""
    across: NonNegative = 0.5
    """Weight of KD with the teacher's prediction for the other view."""
    temperature: Temperature = 4.0
    """Softmax temperature; 1 on ImageNet."""
    weak_confidence: Fraction = 0.9
    """within: only samples whose weak view the teacher classifies with this probability or more."""
    strong_confidence: Fraction = 0.2
    """across: only samples whose strong view it classifies with this probability or more."""

    @property
    def needs_strong_view(self) -> bool:
        """It compares both."""
        return True
