"""DIST, distillation from a stronger teacher."""

from typing import ClassVar

from service.spec.fields import NonNegative
from service.spec.losses.base import LossSection
from service.spec.losses.temperatures import Temperature


class Dist(LossSection):
    """1 - Pearson correlation over the classes, and over the micro-batch, arXiv 2205.10536.

    Published with ce.weight 1. Multiplied by temperature^2, as the authors' code does and their
    paper does not.
    """

    couples_samples: ClassVar[bool] = True
    reads_every_logit: ClassVar[bool] = True
    part_weights: ClassVar[tuple[str, ...]] = ("beta", "gamma")

    beta: NonNegative = 2.0
    """Weight of the correlation over the classes of each sample."""
    gamma: NonNegative = 2.0
    """Weight of the correlation over the samples of each class."""
    temperature: Temperature = 1.0
    """Softmax temperature; 4 on CIFAR-100, 1 on ImageNet."""
