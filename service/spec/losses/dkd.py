"""DKD, decoupled knowledge distillation."""

from typing import ClassVar

from service.spec.fields import NonNegative
from service.spec.losses.temperatures import SoftenedLoss


class Dkd(SoftenedLoss):
    """alpha TCKD + beta NCKD, arXiv 2203.08679; published with ce.weight 1."""

    needs_labels: ClassVar[bool] = True
    reads_every_logit: ClassVar[bool] = True
    part_weights: ClassVar[tuple[str, ...]] = ("alpha", "beta")

    alpha: NonNegative = 1.0
    """Weight of TCKD, the part about the label's class against all others."""
    beta: NonNegative = 8.0
    """Weight of NCKD, the part among the other classes; 2 to 8 are published for CIFAR-100, 0.5 and
    2 for ImageNet."""
