"""GKL, generalized Kullback-Leibler divergence."""

from typing import ClassVar, Literal

from service.spec.fields import NonNegative
from service.spec.losses.base import LossSection
from service.spec.losses.temperatures import Temperature


class Gkl(LossSection):
    """Soft cross-entropy + weighted squared differences of logits, arXiv 2503.08038.

    Published with ce.weight 1.
    """

    needs_labels: ClassVar[bool] = True
    couples_samples: ClassVar[bool] = True
    reads_every_logit: ClassVar[bool] = True
    part_weights: ClassVar[tuple[str, ...]] = ("alpha", "beta")

    alpha: NonNegative = 1.0
    """Weight of the cross-entropy with the teacher's predictions."""
    beta: NonNegative = 0.5
    """Weight of the squared differences between all pairs of classes; 4 to 20 on CIFAR-100."""
    gamma: NonNegative = 0.6
    """Power of the weights of the classes; 0 to 0.3 on CIFAR-100."""
    temperature: Temperature = 1.0
    """Softmax temperature of the cross-entropy; 4 on CIFAR-100."""
    weights_temperature: Temperature = 1.0
    """Softmax temperature of the weights of the classes; 4 on CIFAR-100."""
    weights_of: Literal["class_means", "samples"] = "class_means"
    """class_means: the classes are weighted by the mean of the teacher's predictions for the
    label's class in the epoch before; uniformly in the first one. samples: by those for the sample
    itself."""
