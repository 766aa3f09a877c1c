"""The sections of a job spec about optimization: the optimizer, and the schedule of its rate.

Defaults are ImageNet's usual recipe: 100 epochs of SGD at 0.2, divided by ten after epochs 30, 60
and 90.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from service.spec.fields import Count, Fraction, Items, NonNegative, Pair, Positive, Section


class Sgd(Section):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    """sgd."""
    learning_rate: Positive = 0.2
    """Peak learning rate, for the global batch as it is; nothing rescales it."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: NonNegative = 1e-4
    """L2 penalty, added to the gradient."""
    decay_norms_and_biases: bool = True
    """Whether weight decay also applies to normalization layers and biases."""


class AdamW(Section):
    """Adam with decoupled weight decay."""

    kind: Literal["adamw"]
    """adamw."""
    learning_rate: Positive = 1e-3
    """Peak learning rate, for the global batch as it is; nothing rescales it."""
    betas: Pair[Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the first and second moment."""
    weight_decay: NonNegative = 0.05
    """Decoupled weight decay."""
    decay_norms_and_biases: bool = False
    """Whether weight decay also applies to normalization layers and biases."""


def default_milestones(given: Mapping[str, Any]) -> tuple[int, ...]:
    """30, 60 and 90 % of ``num_epochs``, rounded, each once and before the end."""
    num_epochs = given.get("num_epochs", 1)
    epochs = {min(round(num_epochs * percent / 100), num_epochs - 1) for percent in (30, 60, 90)}
    return tuple(sorted(epochs - {0}))


class Schedule(Section):
    """Length of the training, and the learning-rate schedule."""

    num_epochs: Count = 100
    """Passes over the training set."""
    kind: Literal["multistep", "cosine", "linear"] = "multistep"
    """multistep: x decay_factor after each milestone. cosine, linear: down to final_fraction."""
    milestones: Items[Count] = Field(default_factory=default_milestones)
    """multistep: epochs after which the learning rate is multiplied by decay_factor. Left out: 30,
    60 and 90 % of num_epochs."""
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """multistep: the multiplier."""
    final_fraction: Fraction = 0.0
    """cosine, linear: last learning rate as a share of the peak."""
    warmup_epochs: NonNegative = 0.0
    """Epochs over which the learning rate rises linearly from 0; fractions are allowed."""

    @property
    def has_default_milestones(self) -> bool:
        """Whether the milestones are those of num_epochs, written or not."""
        return self.milestones == default_milestones({"num_epochs": self.num_epochs})
