"""CTKD, curriculum temperature."""

from collections.abc import Iterator

from service.spec.errors import Problem
from service.spec.fields import NonNegative, Positive
from service.spec.losses.base import LossSection


class Ctkd(LossSection):
    """KD at a learned temperature that makes the task harder, arXiv 2211.16231; with ce.weight 0.1.

    The temperature is minimum + range x sigmoid(theta); theta starts at 1 and maximizes the loss.
    """

    weight: NonNegative = 0.9
    """Weight in the total; 0 is as if the section were absent."""
    minimum: Positive = 1.0
    """Lower end of the temperature."""
    range: Positive = 20.0
    """The temperature's upper end minus its lower end."""
    ramp_epochs: NonNegative | None = None
    """Epochs over which the strength of the reversed gradient rises to 1, on half a cosine wave: a
    little above 0 in the first, 1 in the last of them. Absent: 10, or a 24th of the epochs if that
    is less (published: 10 of 240, 5 on ImageNet)."""
    standardize: bool = False
    """Whether each sample's logits are standardized first, to mean 0 and standard deviation 1."""

    @property
    def needs_all_logits(self) -> bool:
        """Whether it standardizes them."""
        return self.standardize

    def problems(
        self,
        num_epochs: int,
        num_classes: int,  # noqa: ARG002 - of other losses
    ) -> Iterator[Problem]:
        """A ramp that ends within the run."""
        if self.ramp_epochs is not None and self.ramp_epochs > num_epochs:
            yield Problem(
                "ramp_epochs",
                f"is {self.ramp_epochs:g}, more than schedule.num_epochs = {num_epochs}",
                "use at most that, or leave it out",
            )
