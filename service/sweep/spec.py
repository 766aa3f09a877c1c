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

    def as_job(self) -> JobSpec:
        """The job spec that stands for the sweep itself: the base under the sweep's name."""
        return self.base.model_copy(update={"name": self.name})

    @property
    def metric_name(self) -> str:
        """The metric as runs report it."""
        return f"held_out/{self.metric}"

    @property
    def maximizes(self) -> bool:
        """Whether more of the metric is better."""
        return self.metric != "loss"

    @property
    def min_epochs(self) -> int:
        """Epochs before a trial may be stopped."""
        return self.scheduler.min_epochs or max(1, self.base.schedule.num_epochs // 9)
