"""RLD, refined logit distillation."""

from typing import ClassVar

from service.spec.fields import NonNegative
from service.spec.losses.base import LossSection
from service.spec.losses.temperatures import Temperature


class Rld(LossSection):
    """DKD that does not teach the teacher's errors, arXiv 2408.07703; published with ce.weight 1.

    alpha x confidence in the teacher's best class, learned for the label's + beta x KL among the
    classes that the teacher ranks below the label's.
    """

    needs_labels: ClassVar[bool] = True
    reads_every_logit: ClassVar[bool] = True
    part_weights: ClassVar[tuple[str, ...]] = ("alpha", "beta")

    alpha: NonNegative = 1.0
    """Weight of the part about the confidence."""
    beta: NonNegative = 8.0
    """Weight of the part among the lower-ranked classes; 0.5 and 2 on ImageNet."""
    temperature: Temperature = 4.0
    """Softmax temperature of the part among classes; 1 on ImageNet."""
    confidence_temperature: Temperature = 1.0
    """Softmax temperature of the part about the confidence."""
