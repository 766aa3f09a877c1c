"""How the softmax temperatures of a loss are chosen."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from service.spec.fields import Positive, Section
from service.spec.losses.base import LossSection

Temperature = Annotated[float, Field(gt=0, le=1000)]
TemperatureShare = Annotated[float, Field(gt=0, lt=0.5)]

TEMPERATURE_KINDS = ("linear", "cosine", "teacher_max", "dynamic")
"""What pydantic adds, below temperature, to the location of an error."""


class TemperatureSchedule(Section):
    """A temperature that changes from epoch to epoch, the same for teacher and student."""

    start: Temperature
    """Temperature in the first epoch."""
    end: Temperature
    """Temperature in the last epoch; larger or smaller than start."""


class LinearTemperature(TemperatureSchedule):
    """A schedule on a straight line."""

    kind: Literal["linear"]
    """linear."""


class CosineTemperature(TemperatureSchedule):
    """A schedule on half a cosine wave."""

    kind: Literal["cosine"]
    """cosine."""


class TeacherMaxTemperature(Section):
    """A temperature per sample, for teacher and student, from the teacher's largest logit."""

    kind: Literal["teacher_max"]
    """teacher_max."""
    scaled_max: Positive = 2.5
    """What the teacher's largest logit, minus the mean of its logits, becomes when it is divided by
    the temperature: the same sharpness for every sample."""
    minimum: Temperature = 0.5
    """Lower bound of the temperature, for samples whose logits are nearly equal."""


class DynamicTemperatures(Section):
    """DTKD's pair of temperatures per sample, arXiv 2404.12711."""

    kind: Literal["dynamic"]
    """dynamic."""
    base_temperature: Temperature = 4.0
    """tau: the two temperatures of a sample sum to 2 tau."""
    sharpness: Literal["max", "norm", "logsumexp"] = "max"
    """As in dtkd."""
    detach: bool = False
    """As in dtkd."""
    floor: TemperatureShare = 0.05
    """As in dtkd."""


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        kind = value.get("kind")
        return kind if isinstance(kind, str) and kind in TEMPERATURE_KINDS else "unknown"
    return str(getattr(value, "kind", "number"))


TemperatureRule = Annotated[
    Annotated[Temperature, Tag("number")]
    | Annotated[LinearTemperature, Tag("linear")]
    | Annotated[CosineTemperature, Tag("cosine")]
    | Annotated[TeacherMaxTemperature, Tag("teacher_max")]
    | Annotated[DynamicTemperatures, Tag("dynamic")],
    Discriminator(_kind),
]


class SoftenedLoss(LossSection):
    """A loss between the softened predictions of teacher and student."""

    temperature: TemperatureRule = 4.0
    """Softmax temperature: a number, or an object with the kind linear or cosine (a schedule from
    start to end), teacher_max (per sample, from the teacher's largest logit) or dynamic (per sample
    and for each of both, as in dtkd)."""
    standardize: bool = False
    """Whether each sample's logits are standardized first, to mean 0 and standard deviation 1
    (arXiv 2403.01427, which uses temperature 2 and 9 times the weight)."""

    @property
    def needs_all_logits(self) -> bool:
        """Whether it standardizes them, or chooses the temperature from more than the largest."""
        rule = self.temperature
        reads_more = isinstance(rule, TeacherMaxTemperature) or (
            isinstance(rule, DynamicTemperatures) and rule.sharpness != "max"
        )
        return self.reads_every_logit or self.standardize or reads_more
