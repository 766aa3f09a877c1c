"""TTM, transformed teacher matching."""

from service.spec.fields import NonNegative
from service.spec.losses.base import LossSection
from service.spec.losses.temperatures import Temperature


class Ttm(LossSection):
    """KL at a temperature of the teacher's alone, arXiv 2402.11148; published with ce.weight 1.

    The defaults are those of WTTM on ImageNet, where TTM alone has none.
    """

    weight: NonNegative = 1.6
    """Weight in the total; 0 is as if the section were absent."""
    temperature: Temperature = 1.25
    """The teacher's softmax temperature, 1 / gamma in the paper; 10, with weight 45, for VGG13 ->
    VGG8 on CIFAR-100."""
