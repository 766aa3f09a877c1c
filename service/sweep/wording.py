"""What the page and the pictures of a sweep both say: counts, values, and which trial is best."""

import json
import math
from collections import Counter
from collections.abc import Sequence

from service.sweep.records import TrialRecord, TrialState

STATE_WORDS: dict[TrialState, str] = {
    "finished": "finished",
    "stopped": "stopped early",
    "running": "running",
    "waiting": "waiting",
    "failed": "failed",
}
"""The states as people read them, in the order they are shown."""


def counts_text(records: Sequence[TrialRecord]) -> str:
    """How many settings were tried and what came of them."""
    tried = f"{len(records)} setting{'' if len(records) == 1 else 's'} tried"
    return f"{tried}: {states_text(records)}" if records else tried


def states_text(records: Sequence[TrialRecord]) -> str:
    """How many trials are in which state."""
    counts = Counter(record.state for record in records)
    parts = [f"{counts[state]} {words}" for state, words in STATE_WORDS.items() if counts[state]]
    return ", ".join(parts) or "none begun"


def is_accuracy(metric: str) -> bool:
    """Whether the metric is a share of images, which people read in percent."""
    return "top" in metric


def metric_text(value: float, metric: str) -> str:
    """A value of the metric, rounded for reading."""
    return f"{value:.2%}" if is_accuracy(metric) else f"{value:.5g}"


def is_number(value: object) -> bool:
    """Whether a value can stand on an axis of numbers; a switch (bool) cannot."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def value_text(value: object) -> str:
    """A parameter's value in full: text as it is, everything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def finite_score(record: TrialRecord) -> float | None:
    """The trial's score, None where it has none or where it is no number to compare by."""
    return record.score if record.score is not None and math.isfinite(record.score) else None


def best_trial(records: Sequence[TrialRecord], maximizes: bool) -> TrialRecord | None:
    """The finished trial with the best score; before any has finished, the best so far.

    A finished trial goes before a stopped one of better score: those were measured at different
    epochs, and the scheduler stopped the one for being worse than others at the same epoch.
    """
    ranked = best_first([record for record in records if record.state != "failed"], maximizes)
    scored = [record for record in ranked if finite_score(record) is not None]
    finished = [record for record in scored if record.state == "finished"]
    return next(iter(finished or scored), None)


def best_first(records: Sequence[TrialRecord], maximizes: bool) -> list[TrialRecord]:
    """The trials from the best score to the worst, then those without one, each by number."""

    def rank(record: TrialRecord) -> tuple[bool, float, int]:
        score = finite_score(record)
        if score is None:
            return True, 0.0, record.number
        return False, -score if maximizes else score, record.number

    return sorted(records, key=rank)
