"""DTKD, dynamic temperature knowledge distillation."""

from typing import Literal

from service.spec.fields import NonNegative
from service.spec.losses.base import LossSection
from service.spec.losses.temperatures import Temperature, TemperatureShare


class Dtkd(LossSection):
    """A pair of temperatures per sample, arXiv 2404.12711; published with kd.weight 1 as well."""

    weight: NonNegative = 3.0
    """Weight in the total; 0 is as if the section were absent."""
    base_temperature: Temperature = 4.0
    """tau: the two temperatures of a sample sum to 2 tau."""
    sharpness: Literal["max", "norm", "logsumexp"] = "max"
    """What is matched. max: the largest logit (the authors' code). norm: the largest absolute logit
    (their paper). logsumexp: the logsumexp itself, solved exactly."""
    detach: bool = False
    """Whether the temperatures are constants in the gradient; in the authors' code they are not."""
    floor: TemperatureShare = 0.05
    """Minimum share of 2 tau for either temperature; samples beyond it are clamped."""
    standardize: bool = False
    """Whether each sample's logits are standardized first, to mean 0 and standard deviation 1."""

    @property
    def needs_all_logits(self) -> bool:
        """Whether it standardizes them, or matches more than the largest."""
        return self.standardize or self.sharpness != "max"
