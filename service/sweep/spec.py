"""What a sweep is: a job, the settings of it that are searched, and how.

Imports neither torch nor ray, like the job spec.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from service.spec.data_sections import HeldOut
from service.spec.fields import Count, Positive, Section
from service.spec.job import JobSpec
from service.spec.sections import Resources

SWEEP_NAME = "sweep.json"

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Parameter(Section):
    """Values that are tried for a field of the job spec: one of ``log``, ``linear``, ``choice``."""

    log: tuple[Positive, Positive] | None = None
    """Minimum and maximum, searched evenly on a log scale; integers for an integer field."""
    linear: tuple[Finite, Finite] | None = None
    """Minimum and maximum, searched evenly; integers for an integer field."""
    choice: Annotated[tuple[JsonValue, ...], Field(min_length=1)] | None = None
    """The values themselves; they may be sections."""
    step: Positive | None = None
    """linear: only values that are a multiple of it above the minimum."""
    points: Annotated[int, Field(ge=2)] | None = None
    """Algorithm grid: number of values of log or linear, both ends included."""
    when: dict[str, tuple[JsonValue, ...]] | None = None
    """The parameter applies only where other parameters, by path, have one of these choices."""

    @property
    def kind(self) -> Literal["log", "linear", "choice"]:
        """Which of the three it is; the first, if an invalid spec has several."""
        return next(kind for kind in self.kinds_given)

    @property
    def kinds_given(self) -> list[Literal["log", "linear", "choice"]]:
        """Which of the three the spec has."""
        kinds: tuple[Literal["log", "linear", "choice"], ...] = ("log", "linear", "choice")
        return [kind for kind in kinds if getattr(self, kind) is not None]


DEFAULT_SPACE = {
    "method.base_temperature": Parameter(log=(1, 8)),
    "method.alpha": Parameter(linear=(0, 4)),
    "method.beta": Parameter(linear=(0, 2)),
}


class Budget(Section):
    """The search ends when the first of these is spent."""

    trials: Count = 24
    """Number of settings that are tried."""
    epochs: Count | None = None
    """Epochs of training over all trials; trials that run when it is spent are stopped at their
    next evaluation."""
    hours: Positive | None = None
    """Hours of the search over all submissions, in the same way."""


class Algorithm(Section):
    """How settings are chosen."""

    kind: Literal["tpe", "cmaes", "random", "grid"] = "tpe"
    """tpe and cmaes are Optuna's; random; grid: every combination of choices and points."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the algorithm."""
    startup_trials: Count = 10
    """tpe, cmaes: number of random settings before the first that is modeled."""


class Scheduler(Section):
    """Which trials are stopped before their last epoch, by the metric so far."""

    kind: Literal["asha", "median", "none"] = "asha"
    """asha: at min_epochs, at reduction_factor times as many, and so on, only the best
    1 / reduction_factor of the trials that reached this epoch continue. median: those continue that
    are not worse than the median, at the same epoch, of the trials that finished."""
    min_epochs: Count | None = None
    """Epochs before a trial may be stopped; absent: a ninth of schedule.num_epochs, at least 1."""
    reduction_factor: Annotated[int, Field(ge=2, le=10)] = 3
    """asha: see kind."""
    startup_trials: Count = 5
    """median: number of trials that must have finished before one is stopped."""


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
    """Images of train that trials are scored on, and not trained on. Val is not evaluated."""
    metric: Literal["top1", "top5", "loss"] = "top1"
    """What is optimized on these images: accuracy is maximized, loss is minimized."""
    minimize_time: bool = False
    """Whether training time is minimized too: the result is all trials that no other one beats in
    both. Then no trial is stopped early, and scheduler is none."""
    budget: Budget = Budget()
    algorithm: Algorithm = Algorithm()
    scheduler: Scheduler = Scheduler()
    resources: Resources | None = None
    """Resources of each trial; absent: those of base."""
    concurrency: Count | None = None
    """Trials at a time; absent: as many as fit on the cluster when the sweep starts."""
    max_failures: Annotated[int, Field(ge=0)] = 1
    """Times that a failed trial is retried from its checkpoint, in addition to the failures that
    resources allows its workers; then it is marked failed."""
    progress_interval_s: Count = 30
    """Seconds between two tables of progress."""

    @property
    def sweep_path(self) -> Path:
        """The sweep's folder."""
        return self.base.checkpoints.storage_path / self.name

    def as_job(self) -> JobSpec:
        """The job spec that represents the sweep: the base under the sweep's name."""
        return self.base.model_copy(update={"name": self.name})

    @property
    def metric_name(self) -> str:
        """The metric as runs report it."""
        return f"held_out/{self.metric}"

    @property
    def maximizes(self) -> bool:
        """Whether a larger metric is better."""
        return self.metric != "loss"

    @property
    def min_epochs(self) -> int:
        """Epochs before a trial may be stopped."""
        return self.scheduler.min_epochs or max(1, self.base.schedule.num_epochs // 9)
