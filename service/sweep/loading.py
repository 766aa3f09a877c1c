"""Reads and checks sweep specs: the base and every point of the space must be valid jobs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from service.spec.errors import BadInputError, Problem
from service.spec.loading import LoadedJob, problems_of, read_json
from service.spec.secrets import environment_problems, secret_problems, without_secrets
from service.spec.section_paths import absolute_paths
from service.sweep.rules import check_sweep
from service.sweep.spec import SweepSpec

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
    if not isinstance(content, Mapping):
        raise BadInputError(subject, [Problem("$", "is not an object", "write {...}")])
    content = _completed(content, subject)
    problems = [*secret_problems(content), *environment_problems(), *_unsupported_kinds(content)]
    content = without_secrets(content)
    try:
        sweep = SweepSpec.model_validate(content)
    except ValidationError as error:
        unsupported = {problem.where for problem in problems}
        found = problems_of(error, SweepSpec)
        problems += [problem for problem in found if problem.where not in unsupported]
    if problems:
        # Without pydantic's error, which repeats what the spec contains.
        raise BadInputError(subject, problems)
    base_spec = sweep.base.model_copy(update=absolute_paths(dict(sweep.base)))
    sweep = sweep.model_copy(update={"base": base_spec})
    base, problems = check_sweep(sweep)
    if problems or base is None:
        raise BadInputError(subject, problems)
    return LoadedSweep(sweep, base)


def _completed(content: Mapping[str, Any], subject: str) -> Mapping[str, Any]:
    """The content with the base's spec in place of its path, and with the default scheduler."""
    completed = dict(content)
    if isinstance(base := content.get("base"), str):
        try:
            completed["base"] = read_json(Path(base))
        except BadInputError as error:
            place = "" if (p := error.problems[0]).where == "file" else f"{base}, {p.where}: "
            problem = Problem("base", f"{place}{p.wrong}", p.remedy)
            raise BadInputError(subject, [problem]) from error
    if content.get("minimize_time") is True:
        completed.setdefault("scheduler", {"kind": "none"})
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
