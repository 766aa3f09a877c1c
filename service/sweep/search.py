"""The search: which settings to try next, which trials to stop, and what came of all of them.

Everything is in one Optuna journal beside the sweep: a search that is begun again goes on where it
was. What is suggested depends on the seed, the trial's number and the trials before it alone.
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from service.sweep.records import TrialRecord, TrialState
from service.sweep.space import Point, SearchSpace, decoded, encoded, own_point
from service.sweep.spec import SweepSpec

STUDY_NAME = "search.log"
SECONDS_ATTRIBUTE = "seconds_searched"
MIN_FOR_IMPORTANCE = 4


class Ticket(NamedTuple):
    """A trial that is to be run, or gone on with."""

    number: int
    point: Point


class TrialEnd(NamedTuple):
    """What came of a trial: ``seconds`` of training, failures, and the error that it ended with."""

    state: TrialState
    seconds: float
    num_failures: int = 0
    error: str | None = None


class Search:
    """Hands out trials and learns from them; one process at a time."""

    def __init__(self, sweep: SweepSpec, sweep_path: Path):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep, self._space = sweep, SearchSpace(sweep.space)
        self._grid = self._space.grid() if sweep.algorithm.kind == "grid" else []
        backend = JournalFileBackend(str(sweep_path / STUDY_NAME))
        directions = [
            StudyDirection.MAXIMIZE if sweep.maximizes else StudyDirection.MINIMIZE,
            *([StudyDirection.MINIMIZE] if sweep.minimize_time else []),
        ]
        self._study = optuna.create_study(
            study_name=sweep.name,
            storage=JournalStorage(backend),
            directions=directions,
            pruner=_pruner(sweep),
            load_if_exists=True,
        )
        trials = self._study.get_trials(deepcopy=False)
        self._unfinished = [trial for trial in trials if trial.state == OptunaState.RUNNING]
        self._curves: dict[int, dict[int, float]] = {}
        self._trials: dict[int, optuna.Trial] = {}
        self._seconds_before = float(self._study.user_attrs.get(SECONDS_ATTRIBUTE, 0.0))
        self._start_s = time.monotonic()

    @property
    def num_trials(self) -> int:
        """Trials that there will be."""
        budget = self._sweep.budget.trials
        return min(budget, len(self._grid)) if self._grid else budget

    @property
    def is_over(self) -> bool:
        """Whether there is no trial left to run."""
        trials = self._study.get_trials(deepcopy=False)
        has_more = len(trials) < self.num_trials and not self.is_spent
        return not has_more and all(trial.state.is_finished() for trial in trials)

    @property
    def seconds(self) -> float:
        """Time spent searching, over all submissions."""
        return self._seconds_before + time.monotonic() - self._start_s

    def next(self) -> Ticket | None:
        """The next trial: one that was interrupted, a new one, or None when there are no more."""
        if self._unfinished:
            frozen = self._unfinished.pop(0)
            self._study.sampler = self._sampler(frozen.number)
            trial = optuna.Trial(self._study, frozen._trial_id)
            return self._begun(trial)
        number = len(self._study.get_trials(deepcopy=False))
        waiting = self._study.get_trials(deepcopy=False, states=[OptunaState.WAITING])
        if number - len(waiting) >= self.num_trials or self.is_spent:
            return None
        self._study.sampler = self._sampler(number)
        if not waiting and (point := self._given_point(number)) is not None:
            self._study.enqueue_trial(encoded(point))
        return self._begun(self._study.ask())

    def _given_point(self, number: int) -> Point | None:
        """A point that is not left to the algorithm: of the grid; and the base's own, to begin."""
        if self._grid:
            return self._grid[number]
        return own_point(self._sweep.base, self._space) if number == 0 else None

    def _begun(self, trial: optuna.Trial) -> Ticket:
        with warnings.catch_warnings():
            # CMA-ES draws what it cannot learn at random, and says so at each trial.
            warnings.simplefilter("ignore")
            point = self._space.draw(trial)
        self._trials[trial.number] = trial
        return Ticket(trial.number, point)

    @property
    def is_spent(self) -> bool:
        """Whether the epochs or hours of the budget are used up."""
        budget = self._sweep.budget
        if budget.hours is not None and self.seconds >= 3600 * budget.hours:
            return True
        return budget.epochs is not None and self.num_epochs >= budget.epochs

    @property
    def num_epochs(self) -> int:
        """Epochs trained so far, over all trials."""
        return sum(record.curve[-1][0] for record in self.records() if record.curve)

    def report(self, number: int, epoch: int, score: float) -> bool:
        """Take the metric after so many epochs of a trial; whether the trial is to stop there.

        An epoch that is reported again, after an interruption, changes nothing.
        """
        self._curves.setdefault(number, {})[epoch] = score
        if self._sweep.minimize_time:
            return self.is_spent
        trial = self._trials[number]
        known = self._study.get_trials(deepcopy=False)[number].intermediate_values
        if epoch not in known:
            trial.report(score, epoch)
        return bool(trial.should_prune()) or self.is_spent

    def end(self, number: int, end: TrialEnd) -> None:
        """Write down how a trial ended."""
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

    def leave(self) -> None:
        """What is under way was stopped, and waits for another submission."""
        self._trials.clear()

    def records(self) -> list[TrialRecord]:
        """All trials so far, by number."""
        return [self._record(trial) for trial in self._study.get_trials(deepcopy=False)]

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        attributes = trial.user_attrs
        state: TrialState = attributes.get("state", "waiting")
        if "state" not in attributes and trial.number in self._trials:
            state = "running"
        known = sorted(self._curves.get(trial.number, trial.intermediate_values).items())
        curve = tuple((epoch, score) for epoch, score in attributes.get("curve", known))
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
        """The algorithm, seeded for one trial, so that an interruption changes no suggestion."""
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


def _pruner(sweep: SweepSpec) -> BasePruner:
    scheduler = sweep.scheduler
    if scheduler.kind == "asha":
        return SuccessiveHalvingPruner(sweep.min_epochs, scheduler.reduction_factor)
    if scheduler.kind == "median":
        return MedianPruner(scheduler.startup_trials, n_warmup_steps=sweep.min_epochs)
    return NopPruner()


def rungs(sweep: SweepSpec) -> list[int]:
    """asha: the epochs after which trials are compared."""
    epoch, found = sweep.min_epochs, []
    while epoch < sweep.base.schedule.num_epochs:
        found.append(epoch)
        epoch *= sweep.scheduler.reduction_factor
    return found


def best_record(
    records: list[TrialRecord], *, maximizes: bool, minimize_time: bool = False
) -> TrialRecord | None:
    """The best of the trials that reached their last epoch; of equals the quickest, where time
    counts, and then the first.
    """
    finished = [r for r in records if r.state == "finished" and r.score is not None]
    sign = 1 if maximizes else -1

    def rank(record: TrialRecord) -> tuple[float, float, int]:
        seconds = record.seconds if minimize_time else 0.0
        return sign * (record.score or 0.0), -seconds, -record.number

    return max(finished, key=rank, default=None)


def best_of(sweep: SweepSpec, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The best trial as the sweep means it."""
    return best_record(list(records), maximizes=sweep.maximizes, minimize_time=sweep.minimize_time)


def fastest_front(records: list[TrialRecord], *, maximizes: bool) -> list[TrialRecord]:
    """Finished trials that no other one beats in metric and time both, quickest first."""
    sign = 1 if maximizes else -1
    finished = [r for r in records if r.state == "finished" and r.score is not None]
    front: list[TrialRecord] = []
    for record in sorted(finished, key=lambda r: (r.seconds, -sign * (r.score or 0.0))):
        if not front or sign * (record.score or 0.0) > sign * (front[-1].score or 0.0):
            front.append(record)
    return front


def importances(records: list[TrialRecord], space: SearchSpace, epoch: int) -> Mapping[str, float]:
    """Share of the variance of the metric at an epoch by parameter: Optuna's fANOVA, which is
    Hutter et al., ICML 2014; of parameters that all trials have. Empty where there is too little.
    """
    scored = [
        (record, dict(record.curve)[epoch]) for record in records if epoch in dict(record.curve)
    ]
    if len(scored) < MIN_FOR_IMPORTANCE or len({score for _, score in scored}) < 2:
        return {}
    study = optuna.create_study()
    for record, score in scored:
        trial = optuna.trial.FixedTrial(encoded(record.params))
        space.draw(trial)
        study.add_trial(
            optuna.trial.create_trial(
                params=trial.params, distributions=trial.distributions, value=score
            )
        )
    try:
        found: dict[str, Any] = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
    except (RuntimeError, ValueError):
        # Where no parameter varied in all trials.
        return {}
    return {path: float(share) for path, share in found.items()}
