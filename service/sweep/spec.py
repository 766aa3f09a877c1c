"""The sweep spec: a job, the settings that are searched, and the search algorithm.

Imports neither torch nor ray, like the job spec.
"""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from service.spec.data_sections import HeldOut
from service.spec.fields import Count, Items, Pair, Positive, Section
from service.spec.job import JobSpec
from service.spec.many_jobs import ManyJobs
from service.spec.sections import Resources

SWEEP_NAME = "sweep.json"
MAX_STANDARD_ERROR = 0.03
"""Above it, the accuracy on the held-out images says little about early epochs."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Parameter(Section):
    """Values that are tried for a field of the job spec: exactly one of log, linear and choice."""

    log: Pair[Positive] | None = None
    """Minimum and maximum, searched uniformly on a log scale; integers for an integer field."""
    linear: Pair[Finite] | None = None
    """Minimum and maximum, searched uniformly; integers for an integer field."""
    choice: Annotated[Items[JsonValue], Field(min_length=1, max_length=1000)] | None = None
    """The values, of any type that the field accepts; a value may be a section."""
    step: Positive | None = None
    """linear: only the minimum plus multiples of it are tried."""
    points: Annotated[int, Field(ge=2, le=1000)] | None = None
    """Algorithm grid: number of values of log or linear, both ends included."""
    when: dict[str, Annotated[Items[JsonValue], Field(max_length=1000)]] | None = None
    """The parameter applies only where other parameters, by path, have one of these choices."""

    @property
    def kind(self) -> Literal["log", "linear", "choice"]:
        """Which of the three the spec has; the first, if an invalid spec has several."""
        return next(kind for kind in self.kinds_given)

    @property
    def kinds_given(self) -> list[Literal["log", "linear", "choice"]]:
        """All of the three that the spec has; a valid spec has one."""
        kinds: tuple[Literal["log", "linear", "choice"], ...] = ("log", "linear", "choice")
        return [kind for kind in kinds if getattr(self, kind) is not None]


DEFAULT_SPACE = {
    "losses.dtkd.base_temperature": Parameter(log=(1, 8)),
    "losses.dtkd.weight": Parameter(linear=(0, 4)),
    "losses.kd.weight": Parameter(linear=(0, 2)),
}


class Budget(Section):
    """Limits of the search, which ends when the first of them is reached."""

    trials: Count = 24
    """Number of trials, each with its own settings."""
    epochs: Count | None = None
    """Epochs of training, summed over all trials. Trials that are running when it is reached are
    stopped at their next evaluation."""
    hours: Positive | None = None
    """Wall time of the search in hours, summed over all submissions. Running trials are stopped as
    for epochs."""


class Algorithm(Section):
    """How the settings of the next trial are chosen."""

    kind: Literal["tpe", "cmaes", "random", "grid"] = "tpe"
    """tpe, cmaes and random: Optuna's samplers. grid: every combination of choices and points."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the algorithm."""
    startup_trials: Count = 10
    """tpe, cmaes: number of trials with random settings before the model is used."""


class Scheduler(Section):
    """Which trials are stopped before their last epoch because of their metric so far."""

    kind: Literal["asha", "median", "none"] = "asha"
    """asha: at epochs min_epochs, min_epochs * reduction_factor and so on, only the best
    1 / reduction_factor of the trials that reached this epoch continue, and those that are worse
    by no more than the accuracy's standard error; it decides once reduction_factor trials are
    there. median: a trial is stopped if it is worse than the median of the finished trials at the
    same epoch."""
    min_epochs: Count | None = None
    """Epochs before a trial may be stopped. Absent: schedule.num_epochs / reduction_factor, so that
    one in reduction_factor trials can finish; at least half of the epochs where held_out has fewer
    than 278 images or the budget fewer than 3 * reduction_factor trials; and after the warm-up of
    the learning rate and, up to half of the epochs, of the distillation."""
    reduction_factor: Annotated[int, Field(ge=2, le=10)] = 3
    """asha: one in this many trials continues; see kind."""
    startup_trials: Count = 5
    """median: number of trials that must finish before any trial is stopped."""


class SweepSpec(ManyJobs):
    """A complete sweep. Two equal specs are the same sweep."""

    base: JobSpec
    """The job whose settings are searched: a job spec, or the path of its file, relative to the
    current directory. Its tracking.register_as and tracking.promote apply to the best student."""
    space: Annotated[dict[str, Parameter], Field(max_length=100)] = DEFAULT_SPACE
    """The parameters that are searched, by the dotted path of the field that they set. Left out:
    losses.dtkd.base_temperature from 1 to 8 (log), losses.dtkd.weight from 0 to 4 and
    losses.kd.weight from 0 to 2."""
    held_out: HeldOut
    """Images of train that trials are scored on and not trained on. Val is not evaluated."""
    metric: Literal["top1", "top5", "loss"] = "top1"
    """The metric on these images: accuracy is maximized, loss is minimized."""
    minimize_time: bool = False
    """Whether training time is minimized too. The result is then the Pareto front: the trials that
    no other trial beats in both. No trial is stopped early: scheduler.kind must be none."""
    budget: Budget = Budget()
    algorithm: Algorithm = Algorithm()
    scheduler: Scheduler = Scheduler()
    resources: Resources | None = None
    """Resources of each trial. Absent: those of base."""
    concurrency: Count | None = None
    """Number of concurrent trials. Absent: the most that fit on the cluster at the start."""
    max_failures: Annotated[int, Field(ge=0)] = 1
    """Times that a failed trial is retried from its checkpoint, in addition to the worker failures
    that resources allows. After that it is marked failed."""
    progress_interval_s: Count = 30
    """Seconds between two progress tables in the log."""

    @property
    def sweep_path(self) -> Path:
        """The sweep's folder."""
        return self.as_job().run_path

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
        return self.scheduler.min_epochs or self._default_min_epochs()

    @property
    def standard_error(self) -> float:
        """Standard error, 0 to 1, of an accuracy of one half on the held-out images."""
        return 0.5 / math.sqrt(self.held_out.num_images)

    def _loss_warmup_epochs(self) -> int:
        losses = self.base.effective_losses()
        return math.ceil(losses.warmup_epochs_of(self.base.schedule.num_epochs))

    def _default_min_epochs(self) -> int:
        """See the field. One rung, early enough to save epochs, late enough to tell trials apart.

        Early differences between settings are small; on few images noise exceeds them.
        """
        base, factor = self.base, self.scheduler.reduction_factor
        epochs, every = base.schedule.num_epochs, base.evaluation.every_epochs
        half, num_trials = math.ceil(epochs / 2), self.budget.trials
        if self.budget.epochs is not None:
            num_trials = min(num_trials, self.budget.epochs // epochs)
        is_hard = self.standard_error > MAX_STANDARD_ERROR or num_trials < 3 * factor
        earliest = max(
            math.ceil(epochs / factor),
            half if is_hard else 1,
            math.floor(base.schedule.warmup_epochs) + 1,
            min(self._loss_warmup_epochs(), half) if base.uses_teacher else 1,
        )
        last = (epochs - 1) // every * every
        return max(min(math.ceil(earliest / every) * every, last), every)
