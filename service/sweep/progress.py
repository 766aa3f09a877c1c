"""What a person reads while a sweep runs: one table, again and again."""

import json
import time
from collections.abc import Callable, Sequence

from service.sweep.records import TrialRecord
from service.sweep.search import Search, best_of
from service.sweep.spec import SweepSpec
from service.sweep.wording import best_first, counts_text, metric_text, states_text
from service.tracking.report import duration

NUM_BEST = 5


class ProgressTable:
    """Prints the table when its interval is over; call it as often as you like."""

    def __init__(self, sweep: SweepSpec, search: Search, show: Callable[[str], None] = print):
        self._sweep, self._search, self._show = sweep, search, show
        self._shown_s = time.monotonic()

    def __call__(self) -> None:
        """Print it, if it is time."""
        now_s = time.monotonic()
        if now_s - self._shown_s >= self._sweep.progress_interval_s:
            self._shown_s = now_s
            self.show()

    def show(self) -> None:
        """Print it."""
        search = self._search
        self._show(progress_table(self._sweep, search.records(), search.num_trials, search.seconds))


def progress_table(
    sweep: SweepSpec, records: Sequence[TrialRecord], num_trials: int, seconds: float
) -> str:
    """How far the sweep is, with the trials under way and the best ones so far.

    ``seconds``: time spent so far.
    """
    under_way = [record for record in records if record.state in ("running", "waiting")]
    shown = {record.number: record for record in [*under_way, *_leaders(sweep, records)]}
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
    lines = [_headline(sweep, records, num_trials, seconds)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  " + "  ".join([*cells, row[4]]).rstrip())
    if num_others:
        lines.append(f"  and {num_others} more, which ended behind these")
    return "\n".join(lines)


def _headline(
    sweep: SweepSpec, records: Sequence[TrialRecord], num_trials: int, seconds: float
) -> str:
    num_ended = sum(record.state in ("finished", "stopped", "failed") for record in records)
    line = f"{sweep.name}: {num_ended} of {num_trials} settings tried ({states_text(records)})"
    line += f", {duration(seconds)}"
    if 0 < num_ended < num_trials:
        line += f", ETA {duration(seconds / num_ended * (num_trials - num_ended))}"
    return line


def _leaders(sweep: SweepSpec, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The best of the finished trials; before there is one, of those that were stopped."""
    finished = [record for record in records if record.state == "finished"]
    ended = finished or [record for record in records if record.state == "stopped"]
    return best_first(ended, sweep.maximizes)[:NUM_BEST]


def score_text(sweep: SweepSpec, score: float | None) -> str:
    """The metric as people write it."""
    return "-" if score is None else metric_text(score, sweep.metric_name)


def point_text(record: TrialRecord) -> str:
    """A trial's settings on a line, the fields by their last names."""
    values = []
    for path, value in record.params.items():
        text = f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
        values.append(f"{path.rpartition('.')[2]} {text}")
    return ", ".join(values)


def summary(sweep: SweepSpec, records: Sequence[TrialRecord]) -> str:
    """What a search ends with: the best setting, and among how many it is the best."""
    best = best_of(sweep, records)
    if best is None:
        return f"{counts_text(records)}; no trial came to its last epoch"
    lines = [
        f"{counts_text(records)}",
        f"the best is trial {best.number}, {sweep.metric_name} {score_text(sweep, best.score)}:",
    ]
    lines += [f"  {path} = {json.dumps(value)}" for path, value in best.params.items()]
    return "\n".join(lines)
