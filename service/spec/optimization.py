"""The sections of a job spec about optimization: the optimizer, and the schedule of its rate.

Defaults are ImageNet's usual recipe: 100 epochs of SGD at 0.2, divided by ten after epochs 30, 60
and 90.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from service.spec.fields import Count, Fraction, Items, NonNegative, Pair, Positive, Section, Share

LearningRate = Annotated[
    Positive,
    Field(description="Peak learning rate, for the global batch as it is; nothing rescales it."),
]
Decay = Annotated[float, Field(ge=0, lt=1)]
LayerDecay = Annotated[
    Share,
    Field(
        description="Factor on the learning rate from each block of a ViT to the block before it, "
        "Clark et al., arXiv 2003.10555; the classifier has the full rate. For torchvision's vit_* "
        "and networks of timm. 1: all parameters have the same rate."
    ),
]
NormsAndBiases = Annotated[
    bool,
    Field(
        description="Whether weight decay, and a trust ratio where the optimizer has one, also "
        "apply to normalization layers and biases."
    ),
]


class Sgd(Section):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    """sgd."""
    learning_rate: LearningRate = 0.2
    momentum: Decay = 0.9
    """Momentum."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: NonNegative = 1e-4
    """L2 penalty, added to the gradient."""
    decay_norms_and_biases: NormsAndBiases = True
    layer_decay: LayerDecay = 1.0


class AdamW(Section):
    """Adam with decoupled weight decay."""

    kind: Literal["adamw"]
    """adamw."""
    learning_rate: LearningRate = 1e-3
    betas: Pair[Decay] = (0.9, 0.999)
    """Decay of the first and second moment."""
    weight_decay: NonNegative = 0.05
    """Decoupled weight decay."""
    decay_norms_and_biases: NormsAndBiases = False
    layer_decay: LayerDecay = 1.0


class Lars(Section):
    """SGD with a rate for each tensor, for large batches: You et al., arXiv 1708.03888."""

    kind: Literal["lars"]
    """lars."""
    learning_rate: LearningRate = 1.0
    momentum: Decay = 0.9
    """Momentum."""
    nesterov: bool = False
    """Nesterov's momentum."""
    trust_coefficient: Positive = 0.001
    """A tensor's rate is this times its norm / (gradient's norm + weight_decay x its norm), on top
    of learning_rate."""
    weight_decay: NonNegative = 1e-4
    """L2 penalty, added to the gradient."""
    decay_norms_and_biases: NormsAndBiases = False
    layer_decay: LayerDecay = 1.0


class Lamb(Section):
    """AdamW with a rate for each tensor, for large batches: You et al., arXiv 1904.00962."""

    kind: Literal["lamb"]
    """lamb."""
    learning_rate: LearningRate = 2.5e-3
    betas: Pair[Decay] = (0.9, 0.999)
    """Decay of the first and second moment."""
    epsilon: Positive = 1e-6
    """Added to the square root of the second moment."""
    max_trust_ratio: Positive | None = None
    """Largest ratio of a tensor's norm to its update's, by which the update is multiplied; absent:
    not limited."""
    weight_decay: NonNegative = 0.02
    """Decoupled weight decay; part of the update whose norm is compared."""
    decay_norms_and_biases: NormsAndBiases = False
    layer_decay: LayerDecay = 1.0


AnyOptimizer = Sgd | AdamW | Lars | Lamb


def _optimizer_kind(value: Any) -> str:  # noqa: ANN401 - JSON or a section
    """SGD where the spec does not say."""
    kind = value.get("kind", "sgd") if isinstance(value, Mapping) else getattr(value, "kind", "")
    return str(kind)


Optimizer = Annotated[
    Annotated[Sgd, Tag("sgd")]
    | Annotated[AdamW, Tag("adamw")]
    | Annotated[Lars, Tag("lars")]
    | Annotated[Lamb, Tag("lamb")],
    Discriminator(_optimizer_kind),
]
STATE_TENSORS = {"sgd": 1, "adamw": 2, "lars": 1, "lamb": 2}
"""Tensors of a parameter's size that an optimizer keeps for each parameter."""


def default_milestones(given: Mapping[str, Any]) -> tuple[int, ...]:
    """30, 60 and 90 % of ``num_epochs``, rounded, each once and before the end."""
    num_epochs = given.get("num_epochs", 1)
    epochs = {min(round(num_epochs * percent / 100), num_epochs - 1) for percent in (30, 60, 90)}
    return tuple(sorted(epochs - {0}))


class Schedule(Section):
    """Length of the training, and the learning-rate schedule."""

    num_epochs: Count = 100
    """Passes over the training set."""
    kind: Literal["multistep", "cosine", "linear", "poly", "one_cycle"] = "multistep"
    """multistep: x decay_factor after each milestone. cosine, linear, poly: down to final_fraction.
    one_cycle: up from initial_fraction to the peak, then down to final_fraction, both along a
    cosine, Smith and Topin, arXiv 1708.07120; momentum stays as it is."""
    milestones: Items[Count] = Field(default_factory=default_milestones)
    """multistep: epochs after which the learning rate is multiplied by decay_factor. Left out: 30,
    60 and 90 % of num_epochs."""
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """multistep: the multiplier."""
    final_fraction: Fraction = 0.0
    """All kinds but multistep: last learning rate as a share of the peak."""
    power: Positive = 0.9
    """poly: exponent of the share of the training that is left."""
    rise_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """one_cycle: share of the training in which the learning rate rises."""
    initial_fraction: Share = 0.04
    """one_cycle: first learning rate as a share of the peak."""
    warmup_epochs: NonNegative = 0.0
    """Epochs over which the learning rate rises linearly from 0; fractions are allowed. one_cycle
    has a rise of its own."""

    @property
    def has_default_milestones(self) -> bool:
        """Whether the milestones are those of num_epochs, written or not."""
        return self.milestones == default_milestones({"num_epochs": self.num_epochs})
