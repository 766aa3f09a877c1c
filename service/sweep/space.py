"""The search space: its dimensions, its points, and the job spec of a point."""

import copy
import itertools
import json
import math
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple, Protocol, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel

from service.spec.job import JobSpec
from service.spec.losses import default_losses
from service.sweep.spec import Parameter, SweepSpec

Point = dict[str, Any]
"""Values by dotted path; parameters that do not apply are absent."""

DEFAULT_GRID_POINTS = 3
MAX_BOUNDARY_VALUES = 64
JSON_PREFIX = "json:"


class Sampler(Protocol):
    """Chooses values for parameters; Optuna's trials implement it."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float:
        """A float in a range."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """An integer in a range, including both ends."""

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:  # noqa: ANN401
        """One of several values."""


class Dimension(NamedTuple):
    """A parameter and its path."""

    path: str
    parameter: Parameter

    @property
    def is_integer(self) -> bool:
        """Whether its values are integers."""
        return is_integer(leaf_types(self.path))

    @property
    def ends(self) -> tuple[float, float]:
        """Minimum and maximum of a range."""
        ends = self.parameter.log or self.parameter.linear
        assert ends is not None, "a choice has no ends"
        return ends

    def applies(self, point: Mapping[str, Any]) -> bool:
        """Whether the parameter applies, given the values chosen so far."""
        return all(
            path in point and point[path] in allowed
            for path, allowed in (self.parameter.when or {}).items()
        )

    def sample(self, sampler: Sampler) -> Any:  # noqa: ANN401 - any JSON value
        """A value chosen by ``sampler``."""
        parameter = self.parameter
        if parameter.choice is not None:
            choices = [_encoded_value(value) for value in parameter.choice]
            return _decoded_value(sampler.suggest_categorical(self.path, choices))
        (low, high), is_log = self.ends, parameter.log is not None
        if self.is_integer:
            step = int(parameter.step or 1)
            return sampler.suggest_int(self.path, int(low), int(high), step=step, log=is_log)
        return sampler.suggest_float(self.path, low, high, step=parameter.step, log=is_log)

    def grid(self) -> list[Any]:
        """The parameter's values in a grid."""
        if self.parameter.choice is not None:
            return list(self.parameter.choice)
        low, high = self.ends
        count = self.parameter.points or DEFAULT_GRID_POINTS
        if self.parameter.log is not None:
            values = np.geomspace(low, high, count)
        else:
            values = np.linspace(low, high, count)
        step = self.parameter.step
        if step is not None:
            values = low + np.round((values - low) / step) * step
        if self.is_integer:
            values = np.round(values)
        # Rounding can move a value out of the range or make two values equal.
        unique = dict.fromkeys(float(min(max(value, low), high)) for value in values)
        return [int(value) if self.is_integer else value for value in unique]

    def boundary_values(self) -> list[Any]:
        """Values to check for validity: all of a choice or a short range, otherwise both ends."""
        if self.parameter.choice is not None:
            return list(self.parameter.choice)
        low, high = self.ends
        step = self.parameter.step or (1.0 if self.is_integer else None)
        if step is not None and (high - low) / step < MAX_BOUNDARY_VALUES:
            values = [low + i * step for i in range(math.floor((high - low) / step + 1e-9) + 1)]
        else:
            values = [low, high]
        return [int(value) for value in values] if self.is_integer else values


class SearchSpace:
    """All dimensions, ordered so that each follows those that it depends on."""

    def __init__(self, space: Mapping[str, Parameter]):
        self.dimensions = _ordered(space)

    def sample(self, sampler: Sampler) -> Point:
        """A point chosen by ``sampler``."""
        point: Point = {}
        for dimension in self.dimensions:
            if dimension.applies(point):
                point[dimension.path] = dimension.sample(sampler)
        return point

    def grid(self) -> list[Point]:
        """Every combination of the dimensions' grids, the last one changing fastest."""
        return self._combinations({d.path: d.grid() for d in self.dimensions})

    def num_grid_points(self) -> int:
        """Number of combinations of the dimensions' grids, ignoring conditions."""
        return math.prod(len(dimension.grid()) for dimension in self.dimensions)

    def num_corners(self) -> int:
        """Number of combinations of boundary values, ignoring conditions."""
        return math.prod(len(dimension.boundary_values()) for dimension in self.dimensions)

    def corners(self) -> list[Point]:
        """Every combination of boundary values."""
        return self._combinations({d.path: d.boundary_values() for d in self.dimensions})

    def random_corners(self, count: int, seed: int) -> Iterator[Point]:
        """Random combinations of boundary values."""
        generator = np.random.default_rng(seed)
        values = {dimension.path: dimension.boundary_values() for dimension in self.dimensions}
        for _ in range(count):
            point: Point = {}
            for dimension in self.dimensions:
                choices = values[dimension.path]
                if dimension.applies(point):
                    point[dimension.path] = choices[int(generator.integers(len(choices)))]
            yield point

    def _combinations(self, values: Mapping[str, list[Any]]) -> list[Point]:
        points: dict[str, Point] = {}
        for combination in itertools.product(*values.values()):
            chosen = dict(zip(values, combination, strict=True))
            point: Point = {}
            for dimension in self.dimensions:
                if dimension.applies(point):
                    point[dimension.path] = chosen[dimension.path]
            # Combinations that differ only in a parameter that does not apply are the same point.
            points.setdefault(json.dumps(point), point)
        return list(points.values())


def num_trials(sweep: SweepSpec) -> int:
    """Trials that the budget allows; of a grid, at most its points."""
    if sweep.algorithm.kind != "grid":
        return sweep.budget.trials
    return min(sweep.budget.trials, len(SearchSpace(sweep.space).grid()))


def _ordered(space: Mapping[str, Parameter]) -> list[Dimension]:
    """Topological order by dependency; dimensions in a cycle come last."""
    remaining, ordered = dict(space), []
    while remaining:
        ready = [
            path
            for path, parameter in remaining.items()
            if not any(other in remaining for other in parameter.when or {})
        ]
        for path in ready or list(remaining):
            ordered.append(Dimension(path, remaining.pop(path)))
    return ordered


def given_content(spec: JobSpec) -> dict[str, Any]:
    """A spec as JSON data without default values, because some defaults depend on other fields."""
    content = spec.model_dump(mode="json", exclude_unset=True)
    if spec.schedule.has_default_milestones:
        # A stored spec lists the default milestones too.
        content.get("schedule", {}).pop("milestones", None)
    return content


def with_shared_cache(content: Mapping[str, Any], base: JobSpec) -> dict[str, Any]:
    """A job spec's JSON data with the teacher's logits stored where all runs of ``base`` share
    them, unless it says where.
    """
    cache = (content.get("teacher") or {}).get("cache")
    if cache is None:
        return dict(content)
    cache = {**cache, "path": cache.get("path") or str(base.teacher_cache_path)}
    return {**content, "teacher": {**content["teacher"], "cache": cache}}


def with_values(content: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """A job spec's JSON data in which the values of a point replace those of the job."""
    changed = copy.deepcopy(dict(content))
    # A choice of a section comes before choices of its fields.
    for path, value in sorted(point.items(), key=lambda item: item[0].count(".")):
        *sections, leaf = path.split(".")
        if sections[:1] == ["losses"] and changed.get("losses") is None:
            # The point changes this loss, and leaves those of the default as they are.
            losses = default_losses(has_teacher=changed.get("teacher") is not None)
            changed["losses"] = losses.model_dump(mode="json", exclude_none=True)
        target = changed
        for section in sections:
            if not isinstance(target.get(section), dict):
                target[section] = {}
            target = target[section]
        target[leaf] = copy.deepcopy(value)
    return changed


def point_of_job(spec: JobSpec, space: SearchSpace) -> Point | None:
    """The point with a job's own settings; None if they are outside the space."""
    content = spec.model_dump(mode="json")
    content["losses"] = spec.effective_losses().model_dump(mode="json")
    point: Point = {}
    for dimension in space.dimensions:
        if not dimension.applies(point):
            continue
        value: Any = content
        for part in dimension.path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        parameter = dimension.parameter
        if parameter.choice is not None:
            if value not in parameter.choice:
                return None
        elif not isinstance(value, int | float) or not _is_between(value, dimension.ends):
            return None
        point[dimension.path] = value
    return point


def _is_between(value: float, ends: tuple[float, float]) -> bool:
    return ends[0] <= value <= ends[1]


def encoded(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point as Optuna can store it, with lists and objects as JSON text."""
    return {path: _encoded_value(value) for path, value in point.items()}


def decoded(params: Mapping[str, Any]) -> Point:
    """The inverse of ``encoded``."""
    return {path: _decoded_value(value) for path, value in params.items()}


def _encoded_value(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    # A text that looks encoded is encoded too, so that decoding returns it.
    looks_encoded = isinstance(value, str) and value.startswith(JSON_PREFIX)
    is_encoded = looks_encoded or isinstance(value, list | dict)
    return JSON_PREFIX + json.dumps(value) if is_encoded else value


def _decoded_value(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, str) and value.startswith(JSON_PREFIX):
        return json.loads(value.removeprefix(JSON_PREFIX))
    return value


def leaf_types(path: str) -> set[object]:
    """Types that the field at a dotted path of a job spec accepts; empty if it does not exist."""
    models: set[object] = {JobSpec}
    *sections, leaf = path.split(".")
    for section in sections:
        models = {kind for model in models for kind in _field_types(model, section)}
    return {kind for model in models for kind in _field_types(model, leaf)}


def is_numeric(types_found: set[object]) -> bool:
    """Whether a field of these types can be searched over a range."""
    return bool(types_found & {int, float})


def is_integer(types_found: set[object]) -> bool:
    """Whether a field of these types accepts integers only."""
    return int in types_found and float not in types_found


def _field_types(model: object, name: str) -> Iterator[object]:
    if isinstance(model, type) and issubclass(model, BaseModel) and name in model.model_fields:
        yield from _alternatives(model.model_fields[name].annotation)


def _alternatives(annotation: Any) -> Iterator[object]:  # noqa: ANN401 - any annotation
    """The types in an annotation, such as float and NoneType in ``float | None``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from _alternatives(argument)
    else:
        yield origin or annotation
