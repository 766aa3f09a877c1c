"""Which comparisons may resume the one in their folder. Imports neither torch nor ray.

Rows and seeds may come and go. But what has been trained once under a name is that name's.
"""

from collections.abc import Iterator
from pathlib import Path

from service.compare.jobs import RunKey
from service.compare.loading import LoadedComparison
from service.compare.spec import COMPARE_NAME, CompareSpec, Variant
from service.compare.tuned_space import TUNING_NAME, tuned_rows, tuned_space
from service.run.claim import changed_inputs, has_started, input_tags
from service.run.folder import (
    RUNS_NAME,
    SPEC_NAME,
    has_spec,
    read_many_jobs,
    read_spec,
    read_tags,
)
from service.run.result import RESULT_NAME, read_result
from service.spec.errors import BadInputError, Problem
from service.spec.identity import fixed_differences
from service.spec.job import JobSpec
from service.spec.sections import is_file_source
from service.sweep.resuming import read_sweep
from service.sweep.spec import SWEEP_NAME


def read_comparison(compare_path: Path) -> CompareSpec:
    """The comparison that a folder belongs to, wherever the folder is now.

    Raises:
        BadInputError: it is damaged, or was written by another version of the service.
        OSError: the storage fails, or there is no comparison.
    """
    return read_many_jobs(compare_path, COMPARE_NAME, CompareSpec)


def is_comparison(path: Path) -> bool:
    """Whether the folder is that of a comparison."""
    return (path / COMPARE_NAME).exists()


def has_any_run(compare_path: Path) -> bool:
    """Whether a run or a trial of a comparison has made a step."""
    searches = (compare_path / TUNING_NAME).glob("*")
    return any(has_started(path) for path in (compare_path, *searches))


def check_same_comparison(loaded: LoadedComparison) -> None:
    """Check that what has been trained in the folder is what this comparison would train.

    Raises:
        BadInputError: with each field and file that differs.
    """
    folder = loaded.compare.compare_path
    if not has_spec(folder) or not has_any_run(folder):
        return
    if not is_comparison(folder):
        problem = Problem("name", f"{folder} is that of another run", "use another name")
        raise BadInputError("comparison", [problem])
    stored = read_comparison(folder)
    problems = [
        *_spec_problems(loaded.compare, stored),
        *_run_problems(loaded, stored),
        *_search_problems(loaded.compare, stored),
    ]
    if problems:
        first_of_each = {problem.where: problem for problem in reversed(problems)}
        raise BadInputError("comparison", list(first_of_each.values())[::-1])


def _spec_problems(compare: CompareSpec, stored: CompareSpec) -> Iterator[Problem]:
    """Fields of the comparison itself that decide what is trained."""
    path = compare.compare_path / COMPARE_NAME
    for field in ("base_label", "tuned"):
        if getattr(stored, field) != getattr(compare, field):
            wrong = f"differs from the comparison {compare.name!r} that exists already"
            remedy = f"use another name, or restore the field as {path} has it"
            yield Problem(field, wrong, remedy)


def _run_problems(loaded: LoadedComparison, stored: CompareSpec) -> Iterator[Problem]:
    """Fields and files of runs that have started, each as it is written in the comparison."""
    compare = loaded.compare
    digests: dict[str, dict[str, str]] = {}
    for key, spec in loaded.run_specs().items():
        if not has_spec(spec.run_path) or not has_started(spec.run_path):
            continue
        for field in _differences(compare, read_spec(spec.run_path), spec):
            problem = _difference(compare, field, spec.run_path / SPEC_NAME)
            yield _as_written(compare, stored, key.variant, problem)
        yield from _result_problems(key, spec.run_path)
        job = loaded.jobs[key.variant].spec
        files = repr((job.dataset.train, job.teacher, job.student))
        if files not in digests:
            digests[files] = input_tags(loaded.jobs[key.variant])
        for problem in changed_inputs(read_tags(spec.run_path), digests[files], compare.name):
            yield _as_written(compare, stored, key.variant, problem)


def _result_problems(key: RunKey, run_path: Path) -> Iterator[Problem]:
    """A damaged result: the checkpoints that had it are removed when a run has finished."""
    try:
        read_result(run_path)
    except BadInputError as error:
        where = f"{RUNS_NAME}/{key.name}/{RESULT_NAME}"
        remedy = f"remove the folder {run_path} and submit again: the run is trained anew"
        yield error.problems[0]._replace(where=where, remedy=remedy)


def _search_problems(compare: CompareSpec, stored: CompareSpec) -> Iterator[Problem]:
    """Fields that a row's search, which has started, was started with."""
    for variant, sweep in tuned_rows(compare).items():
        path = sweep.sweep_path / SWEEP_NAME
        if path.exists() and has_started(sweep.sweep_path):
            for field in fixed_differences(read_sweep(sweep.sweep_path).base, sweep.base):
                yield _as_written(compare, stored, variant, _difference(compare, field, path))


def _difference(compare: CompareSpec, field: str, path: Path) -> Problem:
    """A field of a job that differs from what ``path`` has."""
    wrong = f"differs from runs of the comparison {compare.name!r} that exist already"
    return Problem(field, wrong, f"use another name, or restore it as {path} has it")


def _differences(compare: CompareSpec, stored: JobSpec, spec: JobSpec) -> Iterator[str]:
    """Fields in which a run differs from what it was; not those that tuning sets."""
    tuned = tuned_space(spec) if compare.tuned is not None else {}
    old, new = (s.model_copy(update={"losses": s.effective_losses()}) for s in (stored, spec))
    follows = set()
    if all(each.schedule.has_default_milestones for each in (stored, spec)):
        # They follow from num_epochs, which is named.
        follows = {"schedule.milestones"}
    for field in fixed_differences(old, new):
        if field not in tuned and field not in follows and not _is_fetched(spec, field):
            yield field


def _is_fetched(spec: JobSpec, field: str) -> bool:
    """Whether a field is about weights that are no file, whose stored spec has a file of them."""
    parts = ("weights", "classes", "num_classes")
    return any(
        _is_within(field, f"{path}.{part}")
        for path, network in spec.networks().items()
        if network.weights is not None and not is_file_source(network.weights.source)
        for part in parts
    )


def _as_written(
    compare: CompareSpec, stored: CompareSpec, variant: Variant, found: Problem
) -> Problem:
    """A problem of a field of a run, at the place where the user wrote it."""
    field = found.where
    if compare.resources is not None and field.startswith("resources"):
        return found
    for section, owner in (("variants", variant.name), ("pairs", variant.pair)):
        now, before = (getattr(spec, section).get(owner, {}) for spec in (compare, stored))
        if any(_overlap(path, field) for path in (*now, *before)):
            return found._replace(where=f"{section}.{owner}", wrong=f"{field} {found.wrong}")
    return found._replace(where=f"base.{field}")


def _overlap(path: str, field: str) -> bool:
    """Whether one of two dotted paths is a part of the other."""
    return _is_within(field, path) or _is_within(path, field)


def _is_within(path: str, outer: str) -> bool:
    return f"{path}.".startswith(f"{outer}.")
