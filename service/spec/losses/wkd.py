"""WKD-L, Wasserstein distance between predictions."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from service.spec.errors import Problem
from service.spec.fields import Count, NonNegative, Positive
from service.spec.losses.base import LossSection
from service.spec.losses.temperatures import Temperature


class Wkd(LossSection):
    """-p_y log q_y + gamma x transport cost among the other classes, arXiv 2412.08139; ce.weight 1.

    Moving probability between two classes costs more the less their rows of the teacher's
    classifier are alike. This is an option of the authors' code; their published results compare
    the features of the classes' images instead.
    """

    needs_labels: ClassVar[bool] = True
    needs_classifier: ClassVar[bool] = True
    reads_every_logit: ClassVar[bool] = True

    gamma: NonNegative = 30.0
    """Weight of the transport cost; 600 on CIFAR-100 at temperature 8."""
    temperature: Temperature = 2.0
    """Softmax temperature of the transported predictions."""
    sharpening: Positive = 1.0
    """s: the cost is 1 - exp(-s (1 - cosine similarity))."""
    regularization: Positive = 0.05
    """Entropic regularization of the transport."""
    num_iterations: Annotated[Count, Field(le=1000)] = 10
    """Iterations of Sinkhorn's algorithm."""
    decay_from_epoch: Annotated[int, Field(ge=0)] = 0
    """gamma falls on half a cosine wave from this epoch, counted from 0, to 0 in the last one; 150
    of 240 on CIFAR-100."""

    def problems(
        self,
        num_epochs: int,
        num_classes: int,  # noqa: ARG002 - of other losses
    ) -> Iterator[Problem]:
        """A decay that starts within the run."""
        if self.decay_from_epoch >= num_epochs:
            yield Problem(
                "decay_from_epoch",
                f"is {self.decay_from_epoch}, but schedule.num_epochs is {num_epochs}",
                f"use at most {num_epochs - 1}",
            )
