"""The trials of a sweep that read the teacher's logits: which, how many, and what they share."""

import json
from collections.abc import Iterator

from service.spec.errors import Problem
from service.spec.loading import LoadedJob
from service.spec.networks import TEACHER
from service.sweep.rules import boundary_points
from service.sweep.space import Dimension, Point, SearchSpace, num_trials
from service.sweep.spec import SweepSpec
from service.sweep.trials import trial_spec
from service.teacher_cache.demand import Runs, shared_logits
from service.teacher_cache.estimate import concurrent_lines

OTHER_SECTIONS = ("losses", "optimizer", "student")
"""Sections of a job on which no logit of its teacher depends."""


def cached_runs(sweep: SweepSpec, base: LoadedJob) -> list[Runs]:
    """Trials with all combinations of what logits depend on, which stand for those that will run.

    None where none can have a cache. Which trials will run is not known: the same number of each
    combination that reads logits is expected. ``base``: the sweep's, with facts about its datasets.
    """
    if not _may_have_cache(sweep, base):
        return []
    readers = list(_readers(sweep, base))
    return [Runs(trial, num_trials(sweep) / len(readers)) for trial in readers]


def advice_lines(sweep: SweepSpec, base: LoadedJob) -> list[str]:
    """What a person should know about the teacher's cache before the trials start."""
    ranges = [f"warning: {problem}" for problem in unshared_ranges(sweep, base)]
    is_one_by_one = sweep.concurrency == 1
    return ranges or ([] if is_one_by_one else concurrent_lines(cached_runs(sweep, base)))


def unshared_ranges(sweep: SweepSpec, base: LoadedJob) -> Iterator[Problem]:
    """Parameters with a range of values on which the teacher's logits depend.

    Trials have values of their own from it, so that none reads what another one has stored.
    """
    if not _may_have_cache(sweep, base):
        return
    points = list(boundary_points(sweep))
    for dimension in SearchSpace(sweep.space).dimensions:
        if not _matters(dimension.path):
            continue
        middle = _middle(dimension)
        point = next((point for point in points if dimension.path in point), None)
        if middle is None or point is None:
            continue
        trials = [
            _trial(sweep, base, {**point, dimension.path: value}, 0)
            for value in (*dimension.ends, middle)
        ]
        of_ends, of_all = shared_logits(trials[:2]), shared_logits(trials)
        if len(of_all) > len(of_ends):
            yield Problem(
                f"space.{dimension.path}",
                "is a range, and the teacher's logits depend on it: trials share none",
                "give a choice of values, or leave teacher.cache out",
            )


def _may_have_cache(sweep: SweepSpec, base: LoadedJob) -> bool:
    teacher = base.spec.teacher
    is_searched = any(path.split(".")[0] == TEACHER for path in sweep.space)
    return is_searched or (teacher is not None and teacher.cache is not None)


def _readers(sweep: SweepSpec, base: LoadedJob) -> Iterator[LoadedJob]:
    """A trial that reads logits for each combination of what they depend on, if it has any."""
    points: dict[str, list[Point]] = {}
    for point in boundary_points(sweep):
        combination = {path: value for path, value in point.items() if _matters(path)}
        points.setdefault(json.dumps(combination, sort_keys=True), []).append(point)
    for number, equal in enumerate(points.values()):
        # An end of a range may be a weight of 0, which hardly any trial has.
        trials = (_trial(sweep, base, point, number) for point in equal)
        reader = next((trial for trial in trials if trial.spec.teacher_cache is not None), None)
        if reader is not None:
            yield reader


def _matters(path: str) -> bool:
    return path.split(".")[0] not in OTHER_SECTIONS


def _trial(sweep: SweepSpec, base: LoadedJob, point: Point, number: int) -> LoadedJob:
    spec = trial_spec(sweep, base.spec, number, point)
    # Without a trial's name: what ran in the folder of this number may have had other weights.
    return base._replace(spec=spec.model_copy(update={"name": f"point-{number:04d}"}))


def _middle(dimension: Dimension) -> float | None:
    """A value between the ends of a range; None where all values are boundary values."""
    parameter = dimension.parameter
    if parameter.choice is not None or len(dimension.boundary_values()) > 2:
        return None
    low, high = dimension.ends
    step = parameter.step or (1.0 if dimension.is_integer else (high - low) / 2)
    middle = low + (high - low) // (2 * step) * step
    return int(middle) if dimension.is_integer else middle
