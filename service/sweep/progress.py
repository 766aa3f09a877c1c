"""The progress of a sweep: the table in the log, the status file, and the final summary."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from service.run.report import duration, metric_text, print_now
from service.run.status import State
from service.sweep.analysis import (
    TrialRecord,
    best_first,
    best_of,
    counts_text,
    states_text,
)
from service.sweep.spec import SweepSpec
from service.sweep.study import Search
from service.trials.run_progress import UPDATE_INTERVAL_S, RunCounts

NUM_BEST = 5

ONE_FINISHED_NOTE = "only this trial finished: the search cannot tell which settings are better"


@dataclass
class SweepStatus:
    """The content of a sweep's status.json.

    ``num_trials``: trials in the budget. ``num_ended``: trials that are finished, stopped by the
    scheduler or failed. ``best_score``: the metric of the best finished trial. ``seconds``: wall
    time of the search, over all submissions. ``num_confirm_runs``, ``num_confirmed``,
    ``num_confirm_failed``: confirming runs in all, finished and failed ones; None while there are
    none. ``confirm_seconds``: wall time of the confirming runs in this submission. ``eta_s``:
    seconds left of the search, or of the confirming runs. ``updated_time``: Unix time in seconds.
    """

    name: str
    metric: str
    state: State | Literal["confirming"] = "running"
    num_trials: int = 0
    num_ended: int = 0
    num_running: int = 0
    num_failed: int = 0
    best_trial: int | None = None
    best_score: float | None = None
    seconds: float = 0.0
    num_confirm_runs: int | None = None
    num_confirmed: int | None = None
    num_confirm_failed: int | None = None
    confirm_seconds: float | None = None
    eta_s: float | None = None
    updated_time: float = 0.0

    def update(self, sweep: SweepSpec, search: Search) -> None:
        """Copy the progress of the search."""
        records = search.records()
        best = best_of(sweep, records)
        self.num_trials, self.num_ended = search.num_trials, num_ended(records)
        self.num_running = sum(record.state == "running" for record in records)
        self.num_failed = sum(record.state == "failed" for record in records)
        self.best_trial = best.number if best else None
        self.best_score = best.score if best else None
        self.seconds = search.seconds
        self.eta_s = eta_s(self.num_ended, self.num_trials, self.seconds)

    def update_confirming(self, counts: RunCounts) -> None:
        """Copy the progress of the confirming runs."""
        self.num_confirm_runs, self.num_confirmed = counts.num_runs, counts.num_finished
        self.num_confirm_failed = counts.num_failed
        self.confirm_seconds, self.eta_s = counts.seconds, counts.eta_s


class ProgressReporter:
    """Prints the progress table and updates the status, each when its interval has passed."""

    def __init__(
        self,
        sweep: SweepSpec,
        search: Search,
        status: SweepStatus,
        show: Callable[[str], None] = print_now,
    ):
        self._sweep, self._search, self._status, self._show = sweep, search, status, show
        self._shown_s, self._updated_s = time.monotonic(), -math.inf

    def __call__(self) -> None:
        """Print the table and update the status if they are due."""
        now_s = time.monotonic()
        if now_s - self._updated_s >= UPDATE_INTERVAL_S:
            self._updated_s = now_s
            self._status.update(self._sweep, self._search)
        if now_s - self._shown_s >= self._sweep.progress_interval_s:
            self._shown_s = now_s
            search = self._search
            self._show(
                progress_table(self._sweep, search.records(), search.num_trials, search.seconds)
            )


def num_ended(records: Sequence[TrialRecord]) -> int:
    """Number of trials that will not run again."""
    return sum(record.state in ("finished", "stopped", "failed") for record in records)


def eta_s(num_ended: int, num_trials: int, seconds: float) -> float | None:
    """Estimated seconds until all trials have ended; None before the first has ended."""
    return seconds / num_ended * max(0, num_trials - num_ended) if num_ended else None


def progress_table(
    sweep: SweepSpec, records: Sequence[TrialRecord], num_trials: int, seconds: float
) -> str:
    """The progress of the sweep as a table, with the running trials and the best ones so far.

    ``seconds``: wall time of the search.
    """
    running = [record for record in records if record.state in ("running", "waiting")]
    shown = {record.number: record for record in [*running, *_leaders(sweep, records)]}
    rows = [("trial", "state", "epoch", sweep.metric_name, "settings")]
    rows += [
        (
            str(record.number),
            record.state,
            str(record.curve[-1][0]) if record.curve else "0",
            score_text(sweep, record.score),
            point_text(record),
        )
        for record in shown.values()
    ]
    num_others = len(records) - len(shown)
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [_progress_summary(sweep, records, num_trials, seconds)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  " + "  ".join([*cells, row[4]]).rstrip())
    if num_others:
        lines.append(f"  and {num_others} more that have ended")
    return "\n".join(lines)


def _progress_summary(
    sweep: SweepSpec, records: Sequence[TrialRecord], num_trials: int, seconds: float
) -> str:
    ended = num_ended(records)
    line = f"{sweep.name}: {ended} of {num_trials} settings tried ({states_text(records)})"
    line += f", {duration(seconds)}"
    if remaining_s := eta_s(ended, num_trials, seconds):
        line += f", ETA {duration(remaining_s)}"
    return line


def _leaders(sweep: SweepSpec, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The best finished trials; until one has finished, the best stopped ones."""
    finished = [record for record in records if record.state == "finished"]
    ended = finished or [record for record in records if record.state == "stopped"]
    return best_first(ended, sweep.maximizes)[:NUM_BEST]


def score_text(sweep: SweepSpec, score: float | None) -> str:
    """The metric, rounded for display."""
    return "-" if score is None else metric_text(score, sweep.metric_name)


def point_text(record: TrialRecord) -> str:
    """A trial's settings on one line, with the last part of each path as the name."""
    values = []
    for path, value in record.params.items():
        text = f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
        values.append(f"{path.rpartition('.')[2]} {text}")
    return ", ".join(values)


def has_one_finished_only(records: Sequence[TrialRecord]) -> bool:
    """Whether only one of several trials finished, so that no two can be compared."""
    return len(records) > 1 and sum(record.state == "finished" for record in records) == 1


def summary(sweep: SweepSpec, records: Sequence[TrialRecord]) -> str:
    """The last lines of a search's log: the number of trials and the best settings."""
    best = best_of(sweep, records)
    if best is None:
        return f"{counts_text(records)}; no trial reached its last epoch"
    lines = [
        f"{counts_text(records)}",
        f"the best is trial {best.number}, {sweep.metric_name} {score_text(sweep, best.score)}:",
    ]
    if has_one_finished_only(records):
        lines.append(ONE_FINISHED_NOTE)
    lines += [f"  {path} = {json.dumps(value)}" for path, value in best.params.items()]
    return "\n".join(lines)
