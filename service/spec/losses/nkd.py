"""NKD, normalized knowledge distillation."""

from typing import ClassVar

from service.spec.fields import NonNegative
from service.spec.losses.base import LossSection
from service.spec.losses.temperatures import Temperature


class Nkd(LossSection):
    """-p_y log q_y + gamma T^2 CE among the other classes, arXiv 2303.13005; with ce.weight 1."""

    needs_labels: ClassVar[bool] = True
    reads_every_logit: ClassVar[bool] = True

    gamma: NonNegative = 1.5
    """Weight of the part among the classes other than the label's; 3.5 on CIFAR-100."""
    temperature: Temperature = 1.0
    """Softmax temperature of that part; 3 on CIFAR-100."""
