"""What a sweep is: a job, the settings of it that are searched, and how.

Imports neither torch nor ray, like the job spec's own module.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from service.problems import BadInputError, Problem
from service.spec import JobSpec, problem_of, read_json, with_absolute_paths
from service.spec_data_sections import HeldOut
from service.spec_fields import Count, Positive, Section
from service.spec_sections import Resources
from service.sweep.parameters import DEFAULT_SPACE, Parameter

SWEEP_NAME = "sweep.json"

REFUSED_ALGORITHMS = {
    "bohb": "it needs trials that pause and hand each other checkpoints of Ray Tune, which trials "
    "of Ray Train do not make; tpe with scheduler asha comes closest",
}
REFUSED_SCHEDULERS = {
    "pbt": "it changes the settings of runs under way and copies weights between them, but a run "
    "here is its spec from beginning to end; use asha",
    "hyperband": "it pauses trials through checkpoints of Ray Tune, which trials of Ray Train do "
    "not make; use asha",
}


class Budget(Section):
    """The search ends when the first of these is used up."""

    trials: Count = 24
    """Settings that are tried."""
    epochs: Count | None = None
    """Epochs trained, over all trials; those that are under way when it is used up are stopped at
    their next evaluation."""
    hours: Positive | None = None
    """Hours of searching, over all submissions, in the same way."""


class Algorithm(Section):
    """How settings are chosen."""

    kind: Literal["tpe", "cmaes", "random", "grid"] = "tpe"
    """tpe and cmaes are Optuna's; random; grid: every combination of choices and points."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the choice."""
    startup_trials: Count = 10
    """tpe, cmaes: settings drawn at random before the first that is learned from them."""


class Scheduler(Section):
    """Which trials are stopped before their last epoch, by the metric so far."""

    kind: Literal["asha", "median", "none"] = "asha"
    """asha: at min_epochs, and at reduction_factor times as many, and so on, only the best
    1 / reduction_factor of the trials that came so far go on. median: those go on that are no worse
    than the median, at the same epoch, of the trials that came to their last."""
    min_epochs: Count | None = None
    """Epochs before a trial may be stopped; absent: a ninth of schedule.num_epochs, 1 at least."""
    reduction_factor: Annotated[int, Field(ge=2, le=10)] = 3
    """asha: see kind."""
    startup_trials: Count = 5
    """median: trials that must have come to their last epoch before one is stopped."""


class SweepSpec(Section):
    """Everything that a sweep is. Two equal specs are the same sweep."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Name of the sweep and of its folder in the base's storage path."""
    base: JobSpec
    """The job whose settings are searched: a job spec, or the path of a file with one, from the
    current directory. Its tracking.register_as and alias are for the winner."""
    space: dict[str, Parameter] = DEFAULT_SPACE
    """What is searched: parameters by the dotted path of the field that they set."""
    held_out: HeldOut
    """Images of train that trials are scored on, and not trained on. Val is not looked at."""
    metric: Literal["top1", "top5", "loss"] = "top1"
    """What is searched for: the accuracy or, as small as possible, the loss on these images."""
    minimize_time: bool = False
    """Search for trials that are quick, too: all those are kept that no other one beats in both.
    Nothing is stopped early then; scheduler is none."""
    budget: Budget = Budget()
    algorithm: Algorithm = Algorithm()
    scheduler: Scheduler = Scheduler()
    resources: Resources | None = None
    """What each trial has; absent: the resources of base."""
    concurrency: Count | None = None
    """Trials at a time; absent: as many as the cluster has room for when the sweep begins."""
    max_failures: Annotated[int, Field(ge=0)] = 1
    """Times that a failed trial is begun again, from its checkpoint, beyond what resources allows
    its workers; then it is marked failed."""
    progress_interval_s: Count = 30
    """Seconds between two tables of progress."""

    @property
    def sweep_path(self) -> Path:
        """The sweep's folder."""
        return self.base.checkpoints.storage_path / self.name

    @property
    def metric_name(self) -> str:
        """The metric as runs report it."""
        return f"held_out_{self.metric}"

    @property
    def maximizes(self) -> bool:
        """Whether more of the metric is better."""
        return self.metric != "loss"

    @property
    def min_epochs(self) -> int:
        """Epochs before a trial may be stopped."""
        return self.scheduler.min_epochs or max(1, self.base.schedule.num_epochs // 9)


def load_sweep(path: Path) -> SweepSpec:
    """Read and check a sweep spec; relative paths in it start from the current directory.

    Raises:
        BadInputError: with every problem that the text, the fields, the files they name and the
            points of the space show.
    """
    return parse_sweep(read_json(path), subject=str(path))


def parse_sweep(content: Any, subject: str = "sweep") -> SweepSpec:  # noqa: ANN401 - it is JSON
    """Check a sweep spec given as JSON data and make its paths absolute.

    Raises:
        BadInputError: with every problem found.
    """
    # Imported here: the rules read this module's sections.
    from service.sweep.rules import problems_with

    if not isinstance(content, Mapping):
        raise BadInputError(subject, [Problem("$", "is not an object", "write {...}")])
    content = _completed(content, subject)
    problems = list(_refused_kinds(content))
    try:
        sweep = SweepSpec.model_validate(content)
    except ValidationError as error:
        refused = {problem.where for problem in problems}
        found = [problem_of(detail) for detail in error.errors()]
        problems += [problem for problem in found if problem.where not in refused]
        raise BadInputError(subject, problems) from error
    sweep = sweep.model_copy(update={"base": with_absolute_paths(sweep.base)})
    if problems := list(problems_with(sweep)):
        raise BadInputError(subject, problems)
    return sweep


def _completed(content: Mapping[str, Any], subject: str) -> Mapping[str, Any]:
    """The content with the base itself in place of its file, and a scheduler that fits."""
    completed = dict(content)
    if isinstance(base := content.get("base"), str):
        try:
            completed["base"] = read_json(Path(base))
        except BadInputError as error:
            problems = [Problem("base", f"{base}: {p.wrong}", p.remedy) for p in error.problems]
            raise BadInputError(subject, problems) from error
    if content.get("minimize_time") is True:
        completed.setdefault("scheduler", {"kind": "none"})
    return completed


def _refused_kinds(content: Mapping[str, Any]) -> list[Problem]:
    """Methods that are known, and cannot work here."""
    reasons = {"algorithm": REFUSED_ALGORITHMS, "scheduler": REFUSED_SCHEDULERS}
    problems = []
    for section, refused in reasons.items():
        kind = content[section].get("kind") if isinstance(content.get(section), Mapping) else None
        if isinstance(kind, str) and kind in refused:
            problems.append(Problem(f"{section}.kind", f"is {kind!r}", refused[kind]))
    return problems
