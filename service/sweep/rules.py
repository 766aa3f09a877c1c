"""Rules for a sweep: its base and every point of its space must be valid jobs."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

from service.spec.errors import BadInputError, Problem
from service.spec.field_problems import field_remedy
from service.spec.job import JobSpec
from service.spec.loading import parse_spec
from service.spec.unused_fields import fields_of_others
from service.sweep.loss_rules import absent_loss_problems, teacher_problems
from service.sweep.space import (
    Dimension,
    Point,
    SearchSpace,
    given_content,
    is_numeric,
    leaf_types,
    with_shared_cache,
    with_values,
)
from service.sweep.spec import Parameter, SweepSpec

FIXED_SECTIONS = {
    "schema_version": "it is the version of the format",
    "name": "each trial has its own",
    "seed": "settings are searched with one seed; --confirm N tries the best with several",
    "dataset": "trials on other data cannot be compared",
    "evaluation": "trials that are evaluated differently cannot be compared",
    "resources": "all trials have the same size; set resources of the sweep",
    "checkpoints": "all trials share those of the sweep",
    "tracking": "all trials share that of the sweep",
}
"""Sections that a space must not contain, and why."""

SCHEDULERS_WITH = {
    "min_epochs": ("asha", "median"),
    "reduction_factor": ("asha", "median"),
    "startup_trials": ("median",),
}
ALGORITHMS_WITH = {"startup_trials": ("tpe", "cmaes")}
"""Which kinds of schedulers and of algorithms use a field."""

ParseJob = Callable[[Any], object]
"""Checks a job's spec given as JSON data; raises BadInputError with every problem of it."""

MAX_GRID_POINTS = 10_000
MAX_CORNERS = 512
MAX_POINT_PROBLEMS = 5


def check_sweep(sweep: SweepSpec, parse: ParseJob = parse_spec) -> list[Problem]:
    """Every problem of a sweep with valid fields; ``parse``: checks its base and its points."""
    of_base = _problems_of(given_content(sweep.base), parse)
    problems = [p._replace(where=f"base.{p.where}") for p in of_base]
    problems += [*_sweep_problems(sweep), *_space_problems(sweep)]
    if not of_base:
        problems += _trial_problems(sweep, parse)
        if not problems:
            problems += _point_problems(sweep, parse)
    return problems


def _sweep_problems(sweep: SweepSpec) -> Iterator[Problem]:
    if sweep.base.dataset.held_out is not None:
        yield Problem("base.dataset.held_out", "is set", "set held_out of the sweep instead")
    epochs = sweep.base.schedule.num_epochs
    if sweep.scheduler.kind != "none":
        if sweep.minimize_time:
            yield Problem(
                "scheduler.kind",
                f"is {sweep.scheduler.kind!r}, but with minimize_time no single metric ranks the "
                "trials",
                'set "scheduler": {"kind": "none"}',
            )
        if "schedule.num_epochs" in sweep.space or "schedule" in sweep.space:
            yield Problem(
                "space.schedule.num_epochs",
                f"is searched, but {sweep.scheduler.kind} compares trials of equal length",
                'remove it, or set "scheduler": {"kind": "none"}',
            )
        if sweep.min_epochs >= epochs > 1:
            yield Problem(
                "scheduler.min_epochs",
                f"is {sweep.min_epochs} of {epochs} epochs",
                "make it less than base.schedule.num_epochs",
            )
    every = sweep.base.evaluation.every_epochs
    if sweep.scheduler.kind != "none" and sweep.min_epochs % every:
        yield Problem(
            "base.evaluation.every_epochs",
            f"is {every}, so there is no evaluation at scheduler.min_epochs = {sweep.min_epochs}",
            "evaluate every epoch, or choose min_epochs as a multiple of it",
        )
    if sweep.algorithm.kind == "cmaes" and all(p.choice for p in sweep.space.values()):
        yield Problem(
            "algorithm.kind",
            "is 'cmaes', which models ranges only, but the space has none",
            "use tpe, random or grid",
        )
    yield from fields_of_others("scheduler", sweep.scheduler, "kind", SCHEDULERS_WITH)
    yield from fields_of_others("algorithm", sweep.algorithm, "kind", ALGORITHMS_WITH)
    if not sweep.space:
        yield Problem("space", "is empty", "name a field, or omit space for the default")


def _trial_problems(sweep: SweepSpec, parse: ParseJob) -> Iterator[Problem]:
    """Problems that make every trial invalid, regardless of its settings."""
    for problem in _problems_of(trial_content(sweep, sweep.base), parse):
        yield problem._replace(where=problem.where.removeprefix("dataset."))
    yield from teacher_problems(sweep)


def _space_problems(sweep: SweepSpec) -> Iterator[Problem]:
    for path, parameter in sweep.space.items():
        where = f"space.{path}"
        section = path.split(".")[0]
        types = leaf_types(path)
        if section in FIXED_SECTIONS:
            yield Problem(where, "cannot be searched", FIXED_SECTIONS[section])
        elif not types:
            yield Problem(
                where, "is not a field of a job spec", field_remedy(JobSpec, path.split("."))
            )
        elif len(parameter.kinds_given) != 1:
            yield Problem(where, "needs one of log, linear and choice", "give exactly one of them")
        else:
            yield from _range_problems(Dimension(path, parameter))
            if parameter.points is not None and sweep.algorithm.kind != "grid":
                yield Problem(
                    f"{where}.points",
                    f"is given, but {sweep.algorithm.kind} samples the whole range",
                    'remove it, or set "algorithm": {"kind": "grid"}',
                )
            yield from _condition_problems(sweep, path, parameter)
    yield from _grid_problems(sweep)
    yield from absent_loss_problems(sweep)
    for path, other in itertools.permutations(sweep.space, 2):
        if other.startswith(f"{path}."):
            yield Problem(f"space.{other}", f"is a part of {path}", "search one of the two")


def _range_problems(dimension: Dimension) -> Iterator[Problem]:
    where, parameter = f"space.{dimension.path}", dimension.parameter
    if parameter.choice is not None:
        if parameter.step is not None or parameter.points is not None:
            yield Problem(where, "is a choice with step or points", "remove these")
        if len({json.dumps(value) for value in parameter.choice}) < len(parameter.choice):
            yield Problem(f"{where}.choice", "has a value twice", "give each once")
        return
    low, high = dimension.ends
    if not is_numeric(leaf_types(dimension.path)):
        yield Problem(where, "is not a number", 'give its values, as in {"choice": [...]}')
    if low >= high:
        yield Problem(where, f"is from {low:g} to {high:g}", "give the minimum first")
    if parameter.log is not None and parameter.step is not None:
        yield Problem(f"{where}.step", "is given with log", "use linear, or remove it")
    numbers = [low, high, parameter.step or 1]
    if dimension.is_integer and any(value != int(value) for value in numbers):
        yield Problem(where, "takes integers only", "give integer ends and an integer step")
    if parameter.step is not None and parameter.step > high - low:
        yield Problem(f"{where}.step", "is more than the range", "make it smaller")


def _grid_problems(sweep: SweepSpec) -> Iterator[Problem]:
    if sweep.algorithm.kind != "grid" or any(
        len(parameter.kinds_given) != 1 for parameter in sweep.space.values()
    ):
        return
    num_points = SearchSpace(sweep.space).num_grid_points()
    if num_points > MAX_GRID_POINTS:
        yield Problem(
            "algorithm.kind",
            f"is 'grid', and the space has more than {MAX_GRID_POINTS:,} points",
            "give fewer parameters or points, or use tpe, random or cmaes",
        )


def _condition_problems(sweep: SweepSpec, path: str, parameter: Parameter) -> Iterator[Problem]:
    for other, allowed in (parameter.when or {}).items():
        where = f"space.{path}.when.{other}"
        condition = sweep.space.get(other)
        if condition is None or condition.choice is None:
            yield Problem(where, "is not a parameter with a choice", "name one of this space")
        elif unknown := [value for value in allowed if value not in condition.choice]:
            yield Problem(where, f"{unknown[0]!r} is not among its choices", "fix the value")
        elif _depends_on(sweep, other, path):
            yield Problem(where, "depends on this parameter itself", "remove one condition")


def _depends_on(sweep: SweepSpec, path: str, other: str) -> bool:
    """Whether ``path`` applies depending on ``other``, directly or through others."""
    seen, pending = set(), [path]
    while pending:
        current = pending.pop()
        if current == other:
            return True
        if current not in seen and current in sweep.space:
            seen.add(current)
            pending += list(sweep.space[current].when or {})
    return False


def _point_problems(sweep: SweepSpec, parse: ParseJob) -> Iterator[Problem]:
    """Problems of points, each kind of problem once, with an example point."""
    seen: set[tuple[str, str]] = set()
    content = trial_content(sweep, sweep.base)
    for point in boundary_points(sweep):
        for problem in _problems_of(with_values(content, point), parse):
            if (key := (problem.where, problem.remedy)) in seen:
                continue
            seen.add(key)
            example = ", ".join(f"{path} = {value!r}" for path, value in point.items())
            yield Problem(
                f"space: {problem.where}",
                f"{problem.wrong}, where {example}",
                f"{problem.remedy}; every point must be a valid job, and when excludes a parameter "
                "from points where it does not apply",
            )
            if len(seen) == MAX_POINT_PROBLEMS:
                return


def boundary_points(sweep: SweepSpec) -> Iterator[Point]:
    """Combinations of boundary values, to check that all points are valid jobs.

    A sample of MAX_CORNERS in a large space; a grid's own points come first.
    """
    space = SearchSpace(sweep.space)
    if sweep.algorithm.kind == "grid":
        yield from itertools.islice(space.grid(), MAX_CORNERS)
    if space.num_corners() <= MAX_CORNERS:
        yield from space.corners()
    else:
        yield from space.random_corners(MAX_CORNERS, seed=0)


def trial_content(sweep: SweepSpec, base: JobSpec) -> dict[str, Any]:
    """The JSON data of a trial's spec, without the values of its point, its name and its folder."""
    content = given_content(base)
    content["dataset"]["held_out"] = sweep.held_out.model_dump(mode="json")
    if sweep.resources is not None:
        content["resources"] = sweep.resources.model_dump(mode="json", exclude_unset=True)
    for field in ("register_as", "promote"):
        content.get("tracking", {}).pop(field, None)
    return with_shared_cache(content, base)


def _problems_of(content: dict[str, Any], parse: ParseJob) -> tuple[Problem, ...]:
    try:
        parse(content)
    except BadInputError as error:
        return error.problems
    return ()
