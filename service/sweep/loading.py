"""Reads and checks sweep specs: the base and every point of the space must be valid jobs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from service.spec.errors import BadInputError, Problem
from service.spec.field_problems import problems_of
from service.spec.loading import LoadedJob, parse_job, read_json
from service.spec.many_jobs import ManyJobs
from service.spec.secrets import environment_problems, secret_problems, without_secrets
from service.spec.section_paths import absolute_paths
from service.sweep.rules import check_sweep
from service.sweep.space import given_content
from service.sweep.spec import SweepSpec

M = TypeVar("M", bound=ManyJobs)

UNSUPPORTED_ALGORITHMS = {
    "bohb": "it needs trials that pause and exchange checkpoints of Ray Tune, which trials of Ray "
    "Train do not have; tpe with scheduler asha comes closest",
}
UNSUPPORTED_SCHEDULERS = {
    "pbt": "it changes the settings of running trials and copies weights between them, but a run "
    "here has the same settings from start to end; use asha",
    "hyperband": "it pauses trials with checkpoints of Ray Tune, which trials of Ray Train do not "
    "have; use asha",
}


class LoadedSweep(NamedTuple):
    """A valid sweep; ``base`` with the facts about its dataset files."""

    sweep: SweepSpec
    base: LoadedJob


def load_sweep(path: Path) -> LoadedSweep:
    """Read and check a sweep spec; its relative paths are relative to the current directory.

    Raises:
        BadInputError: with every problem found in the JSON text, the fields, the files that they
            name and the points of the space.
    """
    return _parse(read_json(path), subject=str(path))


def parse_sweep(content: Any, subject: str = "sweep") -> SweepSpec:  # noqa: ANN401 - it is JSON
    """Check a sweep spec given as JSON data and make its paths absolute.

    Raises:
        BadInputError: with every problem found.
    """
    return _parse(content, subject).sweep


def _parse(content: Any, subject: str) -> LoadedSweep:  # noqa: ANN401 - it is JSON
    sweep = with_absolute_paths(parse_sweep_fields(content, subject))
    if problems := check_sweep(sweep):
        raise BadInputError(subject, problems)
    return LoadedSweep(sweep, parse_job(given_content(sweep.base), subject))


def parse_sweep_fields(content: Any, subject: str) -> SweepSpec:  # noqa: ANN401 - it is JSON
    """A sweep spec with valid fields, whatever its jobs are; its paths are as given.

    Raises:
        BadInputError: with every problem found.
    """
    unsupported: list[Problem] = []
    if isinstance(content, Mapping):
        unsupported = _unsupported_kinds(content)
        if content.get("minimize_time") is True:
            content = {"scheduler": {"kind": "none"}, **content}
    return parse_fields(content, SweepSpec, subject, unsupported)


def parse_fields(
    content: Any,  # noqa: ANN401 - it is JSON
    kind: type[M],
    subject: str,
    unsupported: Sequence[Problem] = (),
) -> M:
    """A spec of many jobs with valid fields, whatever its jobs are; its paths are as given.

    ``content``: JSON data; its base may be the path of a file. ``unsupported``: problems that were
    found before, in place of those that their fields have.

    Raises:
        BadInputError: with every problem found.
    """
    if not isinstance(content, Mapping):
        raise BadInputError(subject, [Problem("$", "is not an object", "write {...}")])
    content = _with_base(content, subject)
    problems = [*secret_problems(content), *environment_problems(), *unsupported]
    content = without_secrets(content)
    try:
        spec = kind.model_validate(content)
    except ValidationError as error:
        known = {problem.where for problem in problems}
        found = problems_of(error, kind)
        problems += [problem for problem in found if problem.where not in known]
    if problems:
        # Without pydantic's error, which repeats what the spec contains.
        raise BadInputError(subject, problems)
    return spec


def with_absolute_paths(spec: M) -> M:
    """A spec of many jobs whose base has absolute paths."""
    base = spec.base.model_copy(update=absolute_paths(dict(spec.base)))
    return spec.model_copy(update={"base": base})


def _with_base(content: Mapping[str, Any], subject: str) -> Mapping[str, Any]:
    """The content with the base's spec in place of its path."""
    completed = dict(content)
    if isinstance(base := content.get("base"), str):
        try:
            completed["base"] = read_json(Path(base))
        except BadInputError as error:
            place = "" if (p := error.problems[0]).where == "file" else f"{base}, {p.where}: "
            problem = Problem("base", f"{place}{p.wrong}", p.remedy)
            raise BadInputError(subject, [problem]) from error
    return completed


def _unsupported_kinds(content: Mapping[str, Any]) -> list[Problem]:
    """Problems for well-known algorithms and schedulers that are not supported."""
    reasons = {"algorithm": UNSUPPORTED_ALGORITHMS, "scheduler": UNSUPPORTED_SCHEDULERS}
    problems = []
    for section, unsupported in reasons.items():
        kind = content[section].get("kind") if isinstance(content.get(section), Mapping) else None
        if isinstance(kind, str) and kind in unsupported:
            problems.append(Problem(f"{section}.kind", f"is {kind!r}", unsupported[kind]))
    return problems
