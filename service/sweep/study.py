"""The search: suggests settings, decides which trials stop early, and records all outcomes.

Its state is an Optuna journal in the sweep's folder, from which the search is resumed. A suggestion
depends only on the seed, the trial's number and the trials recorded before it.
"""

import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from pydantic import TypeAdapter

from service.run.journal import remove_torn_line
from service.run.state_files import damaged
from service.spec.errors import BadInputError
from service.sweep.analysis import TrialRecord
from service.sweep.halving import NoiseAwareHalving
from service.sweep.space import Point, SearchSpace, decoded, encoded, point_of_job
from service.sweep.spec import SweepSpec
from service.trials.source import TrialState

STUDY_NAME = "search.log"
SECONDS_ATTRIBUTE = "seconds_searched"

_RECORDS = TypeAdapter(list[TrialRecord])


class Suggestion(NamedTuple):
    """A trial to start or to resume, and its settings."""

    number: int
    point: Point


class TrialEnd(NamedTuple):
    """The outcome of a trial: ``seconds`` of training, failures, and the last error."""

    state: TrialState
    seconds: float
    num_failures: int = 0
    error: str | None = None


class Search:
    """Suggests trials and records their outcomes. Only one process may use a sweep's search.

    Raises:
        BadInputError: the search in the sweep's folder is damaged.
        OSError: the storage fails.
    """

    def __init__(self, sweep: SweepSpec):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep, self._space = sweep, SearchSpace(sweep.space)
        self._grid = self._space.grid() if sweep.algorithm.kind == "grid" else []
        self._curves: dict[int, dict[int, float]] = {}
        self._trials: dict[int, optuna.Trial] = {}
        self._start_s: float | None = None
        path = sweep.sweep_path / STUDY_NAME
        try:
            self._study = _open_study(sweep, path)
            trials = self._study.get_trials(deepcopy=False)
            self._seconds_before = float(self._study.user_attrs.get(SECONDS_ATTRIBUTE, 0.0))
            _RECORDS.validate_python(self.records())
        except (OSError, BadInputError):
            raise
        except Exception as error:
            # Optuna raises whatever a damaged line leads to.
            fault = f"it is no search of this version ({type(error).__name__})"
            raise damaged(path, fault, "restore the file, or use another name") from error
        self._unfinished = [trial for trial in trials if trial.state == OptunaState.RUNNING]

    @property
    def num_trials(self) -> int:
        """Number of trials in the budget; of a grid, at most the number of its points."""
        budget = self._sweep.budget.trials
        return min(budget, len(self._grid)) if self._grid else budget

    @property
    def is_over(self) -> bool:
        """Whether there are no more trials to run."""
        trials = self._study.get_trials(deepcopy=False)
        has_more = len(trials) < self.num_trials and not self.is_budget_used_up
        return not has_more and all(trial.state.is_finished() for trial in trials)

    @property
    def seconds(self) -> float:
        """Wall time of the search in seconds, over all submissions; not before the first trial of a
        submission, nor after ``stop``.
        """
        running_s = 0.0 if self._start_s is None else time.monotonic() - self._start_s
        return self._seconds_before + running_s

    def next(self) -> Suggestion | None:
        """The next trial, interrupted ones first; None when there are no more."""
        if self._start_s is None:
            self._start_s = time.monotonic()
        if self._unfinished:
            frozen = self._unfinished.pop(0)
            self._study.sampler = self._sampler(frozen.number)
            trial = optuna.Trial(self._study, frozen._trial_id)
            return self._suggest(trial)
        number = len(self._study.get_trials(deepcopy=False))
        waiting = self._study.get_trials(deepcopy=False, states=[OptunaState.WAITING])
        if number - len(waiting) >= self.num_trials or self.is_budget_used_up:
            return None
        self._study.sampler = self._sampler(number)
        if not waiting and (point := self._given_point(number)) is not None:
            self._study.enqueue_trial(encoded(point))
        return self._suggest(self._study.ask())

    def _given_point(self, number: int) -> Point | None:
        """A point that is not sampled: of the grid, or the base's own settings as trial 0."""
        if self._grid:
            return self._grid[number]
        return point_of_job(self._sweep.base, self._space) if number == 0 else None

    def _suggest(self, trial: optuna.Trial) -> Suggestion:
        with warnings.catch_warnings():
            # CMA-ES warns in each trial about parameters that it cannot model.
            warnings.simplefilter("ignore")
            point = self._space.sample(trial)
        self._trials[trial.number] = trial
        return Suggestion(trial.number, point)

    @property
    def is_budget_used_up(self) -> bool:
        """Whether the budget's epochs or hours are used up."""
        budget = self._sweep.budget
        if budget.hours is not None and self.seconds >= 3600 * budget.hours:
            return True
        return budget.epochs is not None and self.num_epochs >= budget.epochs

    @property
    def num_epochs(self) -> int:
        """Epochs trained so far, summed over all trials."""
        return sum(record.curve[-1][0] for record in self.records() if record.curve)

    def report(self, number: int, epoch: int, score: float) -> bool:
        """Record a trial's metric after ``epoch`` epochs; returns whether the trial must stop.

        An epoch that is reported again after a resume is ignored by the study.
        """
        self._curves.setdefault(number, {})[epoch] = score
        if self._sweep.minimize_time:
            return self.is_budget_used_up
        trial = self._trials[number]
        recorded = self._study.get_trials(deepcopy=False)[number].intermediate_values
        if epoch not in recorded:
            trial.report(score, epoch)
        return bool(trial.should_prune()) or self.is_budget_used_up

    def end(self, number: int, end: TrialEnd) -> None:
        """Record how a trial ended."""
        trial = self._trials.pop(number)
        curve = sorted(self._curves.pop(number, {}).items())
        for name, value in {**end._asdict(), "curve": curve}.items():
            trial.set_user_attr(name, value)
        if end.state == "finished":
            values = [curve[-1][1], *([end.seconds] if self._sweep.minimize_time else [])]
            self._study.tell(trial, values)
        elif end.state == "stopped" and not self._sweep.minimize_time:
            self._study.tell(trial, state=OptunaState.PRUNED)
        else:
            self._study.tell(trial, state=OptunaState.FAIL)
        self._study.set_user_attr(SECONDS_ATTRIBUTE, self.seconds)

    def stop(self) -> None:
        """Mark running trials as interrupted; the next submission resumes them."""
        self._trials.clear()
        self._seconds_before, self._start_s = self.seconds, None
        self._study.set_user_attr(SECONDS_ATTRIBUTE, self.seconds)

    def records(self) -> list[TrialRecord]:
        """All trials so far, in the order of their numbers."""
        return [self._record(trial) for trial in self._study.get_trials(deepcopy=False)]

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        attributes = trial.user_attrs
        state: TrialState = attributes.get("state", "waiting")
        if "state" not in attributes and trial.number in self._trials:
            state = "running"
        evaluated = sorted(self._curves.get(trial.number, trial.intermediate_values).items())
        curve = tuple((epoch, score) for epoch, score in attributes.get("curve", evaluated))
        return TrialRecord(
            trial.number,
            state,
            decoded(trial.params),
            curve[-1][1] if curve else None,
            curve,
            attributes.get("seconds", 0.0),
            attributes.get("num_failures", 0),
            attributes.get("error"),
        )

    def _sampler(self, number: int) -> BaseSampler:
        """The sampler, seeded for each trial so that resuming a search changes no suggestion."""
        algorithm = self._sweep.algorithm
        sequence = np.random.SeedSequence([algorithm.seed, number])
        seed = int(sequence.generate_state(1)[0])
        if algorithm.kind == "tpe":
            return TPESampler(n_startup_trials=algorithm.startup_trials, seed=seed)
        if algorithm.kind == "cmaes":
            return CmaEsSampler(
                n_startup_trials=algorithm.startup_trials,
                seed=seed,
                independent_sampler=RandomSampler(seed=seed),
                warn_independent_sampling=False,
                consider_pruned_trials=True,
            )
        return RandomSampler(seed=seed)


def _open_study(sweep: SweepSpec, path: Path) -> optuna.Study:
    # Optuna would append to a line that a killed process left unfinished.
    remove_torn_line(path)
    directions = [
        StudyDirection.MAXIMIZE if sweep.maximizes else StudyDirection.MINIMIZE,
        *([StudyDirection.MINIMIZE] if sweep.minimize_time else []),
    ]
    return optuna.create_study(
        study_name=sweep.name,
        storage=JournalStorage(JournalFileBackend(str(path))),
        directions=directions,
        pruner=_pruner(sweep),
        load_if_exists=True,
    )


def _pruner(sweep: SweepSpec) -> BasePruner:
    scheduler = sweep.scheduler
    if scheduler.kind == "asha":
        num_images = sweep.held_out.num_images if sweep.maximizes else None
        return NoiseAwareHalving(rungs(sweep), scheduler.reduction_factor, num_images)
    if scheduler.kind == "median":
        return MedianPruner(scheduler.startup_trials, n_warmup_steps=sweep.min_epochs)
    return NopPruner()


def rungs(sweep: SweepSpec) -> list[int]:
    """asha: the rungs, which are the epochs after which trials are compared.

    Source: Li et al., arXiv 1810.05934.
    """
    epoch, found = sweep.min_epochs, []
    while epoch < sweep.base.schedule.num_epochs:
        found.append(epoch)
        epoch *= sweep.scheduler.reduction_factor
    return found
