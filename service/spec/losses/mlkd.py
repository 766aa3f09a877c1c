"""MLKD, multi-level logit distillation."""

from typing import Annotated, ClassVar

from pydantic import Field

from service.spec.fields import Items, NonNegative
from service.spec.losses.base import LossSection
from service.spec.losses.temperatures import Temperature

PUBLISHED = (2.0, 3.0, 4.0, 5.0, 6.0)


class Mlkd(LossSection):
    """KD of samples, of pairs of samples and of pairs of classes, of both views (CVPR 2023).

    Published with ce.views both and ce.weight 0.1, on ImageNet with 0.5 for both weights and the
    temperatures 1, 2, 3, 5 and 6. The part about pairs of classes grows with the square of the
    micro-batch, which had 64 images of 100 classes: with few classes, give a smaller weight.
    """

    couples_samples: ClassVar[bool] = True
    reads_every_logit: ClassVar[bool] = True

    weight: NonNegative = 0.9
    """Weight in the total; 0 is as if the section were absent."""
    temperatures: Annotated[Items[Temperature], Field(min_length=1)] = PUBLISHED
    """Softmax temperatures; their losses are added."""
    standardize: bool = False
    """Whether each sample's logits are standardized first, in the part about samples."""

    @property
    def needs_strong_view(self) -> bool:
        """It compares both."""
        return True
