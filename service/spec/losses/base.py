"""What all losses of a spec have in common."""

from collections.abc import Iterator
from typing import ClassVar

from service.spec.errors import Problem
from service.spec.fields import NonNegative, Section

TEMPERATURE_FIELDS = ("temperature", "base_temperature")
"""The fields of losses that are, or choose, a softmax temperature."""


class LossSection(Section):
    """A loss and its weight in the total; what its formula needs is said by the class."""

    needs_teacher: ClassVar[bool] = True
    """Whether it compares the student with a teacher, and so is scaled by the warm-up."""
    needs_labels: ClassVar[bool] = False
    """Whether its value depends on the labels."""
    needs_classifier: ClassVar[bool] = False
    """Whether it reads the weights of the teacher's last layer."""
    couples_samples: ClassVar[bool] = False
    """Whether a sample's loss depends on the others of its micro-batch."""

    reads_every_logit: ClassVar[bool] = False
    """Whether, whatever its settings, it needs all logits; see ``needs_all_logits``."""

    part_weights: ClassVar[tuple[str, ...]] = ()
    """The fields with the weights of the loss's parts, if it has several."""

    weight: NonNegative = 1.0
    """Weight in the total; 0 is as if the section were absent."""

    @property
    def needs_strong_view(self) -> bool:
        """Whether it reads the strong view of each image."""
        return False

    @property
    def needs_all_logits(self) -> bool:
        """Whether it is another loss where only the teacher's largest logits are known, and the
        probability of all other classes together.

        The largest logit is exact then, and a divergence of softened predictions keeps its meaning:
        the other classes count with their probability. Other things have none: means, standard
        deviations and smallest logits (standardize, ls, normkd, dtkd's norm and logsumexp,
        teacher_max); what is about the label's class, which may be any (dkd and its halves, nkd,
        rld, gkl, wkd), or about the student's best classes (ldrld); and relations between classes,
        or between samples class by class (dist, mlkd).
        """
        return self.reads_every_logit

    def problems(
        self,
        num_epochs: int,  # noqa: ARG002 - of other losses
        num_classes: int,  # noqa: ARG002 - of other losses
    ) -> Iterator[Problem]:
        """What does not fit the run, or is of no use; ``where`` is the name of a field."""
        if self.part_weights and not any(getattr(self, name) for name in self.part_weights):
            yield Problem(
                self.part_weights[0],
                f"is 0, and so are all of {', '.join(self.part_weights)}",
                "give one of them a positive weight, or leave the loss out",
            )
