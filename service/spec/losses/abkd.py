"""ABKD, alpha-beta divergence."""

from typing import Annotated

from pydantic import Field

from service.spec.fields import NonNegative
from service.spec.losses.base import LossSection
from service.spec.losses.temperatures import Temperature

Exponent = Annotated[float, Field(ge=0, le=10)]


class Abkd(LossSection):
    """Alpha-beta divergence, between KL (1, 0) and reverse KL (0, 1), arXiv 2505.04560.

    Published with ce.weight 1. Not multiplied by temperature^2.
    """

    weight: NonNegative = 32.0
    """Weight in the total; 0 is as if the section were absent."""
    alpha: Exponent = 0.8
    """Power of the teacher's probabilities."""
    beta: Exponent = 0.3
    """Power of the student's probabilities."""
    temperature: Temperature = 4.0
    """Softmax temperature."""
    standardize: bool = False
    """Whether each sample's logits are standardized first, to mean 0 and standard deviation 1;
    published with alpha 0.9, temperature 2, weight 36 and ce.weight 0.1."""

    @property
    def needs_all_logits(self) -> bool:
        """Whether it standardizes them."""
        return self.standardize
