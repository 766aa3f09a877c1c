"""One parameter of a search space: what values it takes, and which field of a job spec it sets."""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Field, JsonValue

from service.spec import JobSpec
from service.spec_fields import Positive, Section

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Parameter(Section):
    """Values that a field of the job spec is tried with: one of ``log``, ``linear``, ``choice``."""

    log: tuple[Positive, Positive] | None = None
    """Least and greatest value; their logarithms are searched evenly. Whole numbers where the field
    takes only these."""
    linear: tuple[Finite, Finite] | None = None
    """Least and greatest value, searched evenly."""
    choice: Annotated[tuple[JsonValue, ...], Field(min_length=1)] | None = None
    """The values themselves; whole sections, too."""
    step: Positive | None = None
    """linear: only values that are a multiple of it above the least one."""
    points: Annotated[int, Field(ge=2)] | None = None
    """Algorithm grid: how many values of log or linear, the ends included."""
    when: dict[str, tuple[JsonValue, ...]] | None = None
    """The parameter applies only where others, which have a choice, have one of these values."""

    @property
    def kind(self) -> Literal["log", "linear", "choice"]:
        """Which of the three it is; the first, where the spec wrongly gives several."""
        return next(kind for kind in self.kinds_given)

    @property
    def kinds_given(self) -> list[Literal["log", "linear", "choice"]]:
        """Which of the three the spec gives."""
        kinds: tuple[Literal["log", "linear", "choice"], ...] = ("log", "linear", "choice")
        return [kind for kind in kinds if getattr(self, kind) is not None]


DEFAULT_SPACE = {
    "method.base_temperature": Parameter(log=(1, 8)),
    "method.alpha": Parameter(linear=(0, 4)),
    "method.beta": Parameter(linear=(0, 2)),
}

FIXED_SECTIONS = {
    "schema_version": "it is the format's",
    "name": "each trial has its own",
    "seed": "settings are searched with one seed; --confirm N tries the best with several",
    "dataset": "trials on other data cannot be compared",
    "evaluation": "trials that are measured in other ways cannot be compared",
    "resources": "trials of other sizes cannot be planned together; see resources of the sweep",
    "checkpoints": "they are the sweep's",
    "tracking": "it is the sweep's",
}
"""What a space may not contain, and why."""


def leaf_types(path: str) -> set[object]:
    """Types that the field at a dotted path of a job spec may have; empty if there is none."""
    models: set[object] = {JobSpec}
    *sections, leaf = path.split(".")
    for section in sections:
        models = {kind for model in models for kind in _field_types(model, section)}
    return {kind for model in models for kind in _field_types(model, leaf)}


def is_numeric(types_found: set[object]) -> bool:
    """Whether the field takes a range of numbers."""
    return bool(types_found & {int, float})


def is_integer(types_found: set[object]) -> bool:
    """Whether the field takes whole numbers only."""
    return int in types_found and float not in types_found


def _field_types(model: object, name: str) -> Iterator[object]:
    if isinstance(model, type) and issubclass(model, BaseModel) and name in model.model_fields:
        yield from _alternatives(model.model_fields[name].annotation)


def _alternatives(annotation: Any) -> Iterator[object]:  # noqa: ANN401 - what typing has no name for
    """The plain types in an annotation, such as ``float | None``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from _alternatives(argument)
    else:
        yield origin or annotation
