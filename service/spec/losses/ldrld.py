"""LDRLD, local dense relational logit distillation."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from service.spec.errors import Problem
from service.spec.fields import NonNegative
from service.spec.losses.base import LossSection
from service.spec.losses.temperatures import Temperature


class Ldrld(LossSection):
    """KL of all pairs among the student's best classes, and of the rest, arXiv 2507.15911.

    Published with ce.weight 1.
    """

    reads_every_logit: ClassVar[bool] = True
    part_weights: ClassVar[tuple[str, ...]] = ("alpha", "beta")

    alpha: NonNegative = 10.5
    """Weight of the pairs and of the set of the student's best classes."""
    beta: NonNegative = 7.0
    """Weight of the part among all other classes."""
    temperature: Temperature = 4.0
    """Softmax temperature."""
    top_k: Annotated[int, Field(ge=2, le=100)] = 7
    """Number of the student's best classes."""

    def problems(self, num_epochs: int, num_classes: int) -> Iterator[Problem]:
        """Fewer best classes than there are classes."""
        yield from super().problems(num_epochs, num_classes)
        if self.top_k >= num_classes:
            yield Problem(
                "top_k",
                f"is {self.top_k}, but dataset.num_classes is {num_classes}",
                "use less than that, and at least 2",
            )
