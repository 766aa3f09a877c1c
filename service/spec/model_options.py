"""Options of the student's network, by the names that torchvision and timm give them.

An allow-list: these change how a network is trained or initialized, and neither its tensors nor
what it computes in evaluation mode. So they need not travel with weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from pydantic import Field

from service.spec.errors import Problem
from service.spec.fields import Section
from service.spec.model_names import TIMM_PREFIX

Probability = Annotated[float, Field(ge=0, lt=1)]
OptionValues = Mapping[str, float | bool]

TAKEN_BY: Mapping[str, tuple[str, ...]] = {
    "drop_path_rate": (TIMM_PREFIX,),
    "drop_rate": (TIMM_PREFIX, "densenet"),
    "zero_init_last": (TIMM_PREFIX,),
    "stochastic_depth_prob": ("convnext", "efficientnet"),
    "dropout": (
        *("alexnet", "efficientnet", "googlenet", "inception_v3", "mnasnet", "mobilenet"),
        *("squeezenet", "swin", "vgg", "vit"),
    ),
    "zero_init_residual": ("resnet", "resnext", "wide_resnet"),
}
"""Starts of the names of the networks that take an option. Others of torchvision may ignore it
without a word; of timm's networks, timm says whether they do."""
INITIAL_VALUES = ("zero_init_last", "zero_init_residual")
"""Options that say what a network starts from."""


class ModelOptions(Section):
    """Options of the network; those that are absent are as the library has them."""

    drop_path_rate: Probability | None = None
    """timm: probability that the last residual branch is left out of an image's pass; those before
    it are with less, linearly from 0. Stochastic depth, Huang et al., arXiv 1603.09382."""
    drop_rate: Probability | None = None
    """timm: dropout before the classifier; densenet: after each layer."""
    stochastic_depth_prob: Probability | None = None
    """convnext, efficientnet: as drop_path_rate."""
    dropout: Probability | None = None
    """alexnet, efficientnet, googlenet, inception_v3, mnasnet, mobilenet, squeezenet, swin, vgg,
    vit: dropout, where the network has it."""
    zero_init_residual: bool | None = None
    """resnet, resnext, wide_resnet: whether each residual branch starts as 0, by the weight of its
    last BatchNorm, Goyal et al., arXiv 1706.02677; torchvision's default is false."""
    zero_init_last: bool | None = None
    """timm: as zero_init_residual, for networks that have it; true by default in its ResNets."""

    @property
    def given(self) -> OptionValues:
        """The options that are set, by name."""
        return self.model_dump(exclude_none=True)


def option_problems(model: str, options: ModelOptions, *, has_weights: bool) -> Iterator[Problem]:
    """Options that the network does not take, or that have no effect.

    Those of timm's networks are judged by timm itself when the network is built.
    """
    for name in options.given:
        if not model.startswith(TAKEN_BY[name]):
            takes = [option for option, models in TAKEN_BY.items() if model.startswith(models)]
            yield not_taken(name, model, takes)
        elif name in INITIAL_VALUES and has_weights:
            wrong = "is set, but the weights replace what it initializes"
            yield Problem(f"student.options.{name}", wrong, "remove it, or student.weights")


def not_taken(option: str, model: str, takes: Sequence[str]) -> Problem:
    """An option that a network does not take; ``takes``: those that it does."""
    remedy = f"remove it; it takes {', '.join(takes)}" if takes else "remove it"
    return Problem(f"student.options.{option}", f"is set, but {model} does not take it", remedy)
