"""Analyzes a sweep's trials: best trial, Pareto front, importances; and formats their values."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import optuna

from service.sweep.space import SearchSpace, encoded
from service.sweep.spec import SweepSpec
from service.trials.source import TrialState

MIN_FOR_IMPORTANCE = 4

STATE_WORDS: dict[TrialState, str] = {
    "finished": "finished",
    "stopped": "stopped early",
    "running": "running",
    "waiting": "waiting",
    "failed": "failed",
}
"""Labels of the states, in the order in which they are shown."""


class TrialRecord(NamedTuple):
    """One trial and its outcome.

    ``params``: values by dotted path, without parameters that do not apply. ``score``: the metric
    of the last evaluation, None before the first. ``curve``: (epochs done, metric) of each
    evaluation. ``seconds``: wall time of training and evaluation. ``error``: why it failed.
    """

    number: int
    state: TrialState
    params: Mapping[str, object]
    score: float | None
    curve: tuple[tuple[int, float], ...]
    seconds: float
    num_failures: int = 0
    error: str | None = None


def best_of(sweep: SweepSpec, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The best finished trial by the sweep's metric; see ``best_record``."""
    return best_record(records, maximizes=sweep.maximizes, minimize_time=sweep.minimize_time)


def best_record(
    records: Sequence[TrialRecord], *, maximizes: bool, minimize_time: bool = False
) -> TrialRecord | None:
    """The finished trial with the best finite score; None if there is none.

    Of trials with equal scores, the fastest with ``minimize_time``, then the first.
    """
    finished = [r for r in records if r.state == "finished" and finite_score(r) is not None]

    def rank(record: TrialRecord) -> tuple[float, float, int]:
        seconds = record.seconds if minimize_time else 0.0
        return _loss(record, maximizes), seconds, record.number

    return min(finished, key=rank, default=None)


def best_so_far(records: Sequence[TrialRecord], maximizes: bool) -> TrialRecord | None:
    """The best finished trial; until one has finished, the one with the best score so far.

    A stopped trial's score is from an earlier epoch and cannot be compared with a finished trial's;
    at the same epoch, the scheduler found it worse.
    """
    best = best_record(records, maximizes=maximizes)
    if best is not None:
        return best
    ranked = best_first([record for record in records if record.state != "failed"], maximizes)
    return next((record for record in ranked if finite_score(record) is not None), None)


def best_first(records: Sequence[TrialRecord], maximizes: bool) -> list[TrialRecord]:
    """The trials from best to worst score, then those without one; ties by number."""
    return sorted(records, key=lambda record: (_loss(record, maximizes), record.number))


def finite_score(record: TrialRecord) -> float | None:
    """The trial's score, None if it is missing or not finite."""
    return record.score if record.score is not None and math.isfinite(record.score) else None


def _loss(record: TrialRecord, maximizes: bool) -> float:
    """The score as a quantity to minimize; infinite without a score."""
    score = finite_score(record)
    if score is None:
        return math.inf
    return -score if maximizes else score


def fastest_front(records: Sequence[TrialRecord], *, maximizes: bool) -> list[TrialRecord]:
    """The Pareto front of metric and time: finished trials, fastest first."""
    finished = [r for r in records if r.state == "finished" and finite_score(r) is not None]
    front: list[TrialRecord] = []
    for record in sorted(finished, key=lambda r: (r.seconds, _loss(r, maximizes))):
        if not front or _loss(record, maximizes) < _loss(front[-1], maximizes):
            front.append(record)
    return front


def importances(
    records: Sequence[TrialRecord], space: SearchSpace, epoch: int
) -> Mapping[str, float]:
    """Share of the metric's variance that each parameter explains, by path.

    ``epoch``: the metric after this many epochs is used. Only parameters that all trials have are
    included. The result is empty with fewer than MIN_FOR_IMPORTANCE trials or without variance.

    Source: Optuna's fANOVA, which is Hutter et al., "An Efficient Approach for Assessing
    Hyperparameter Importance", ICML 2014.
    """
    scored = [
        (record, score)
        for record in records
        if math.isfinite(score := dict(record.curve).get(epoch, math.nan))
    ]
    if len(scored) < MIN_FOR_IMPORTANCE or len({score for _, score in scored}) < 2:
        return {}
    study = optuna.create_study()
    for record, score in scored:
        trial = optuna.trial.FixedTrial(encoded(record.params))
        space.sample(trial)
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
        # No parameter varies over all trials.
        return {}
    return {path: float(share) for path, share in found.items()}


def counts_text(records: Sequence[TrialRecord]) -> str:
    """How many settings were tried, and how many trials are in each state."""
    tried = f"{len(records)} setting{'' if len(records) == 1 else 's'} tried"
    return f"{tried}: {states_text(records)}" if records else tried


def states_text(records: Sequence[TrialRecord]) -> str:
    """How many trials are in each state."""
    counts = Counter(record.state for record in records)
    parts = [f"{counts[state]} {words}" for state, words in STATE_WORDS.items() if counts[state]]
    return ", ".join(parts) or "none started"


def is_number(value: object) -> bool:
    """Whether a value can be placed on a numeric axis: a finite number, but not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def value_text(value: object) -> str:
    """A parameter's value as text: strings unchanged, everything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
