"""The progress of a comparison: its status file, and its files while runs train."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from service.compare.outcome import Outcome, outcome_of, write_outcome
from service.compare.reading import RunRecords
from service.compare.records import RunRecord
from service.compare.spec import CompareSpec, Variant
from service.run.report import print_now
from service.run.status import State
from service.spec.job import JobSpec
from service.sweep.space import Point
from service.trials.run_progress import RunCounts, RunsProgress
from service.trials.source import FixedTrials

OUTCOME_INTERVAL_S = 30.0


@dataclass
class CompareStatus:
    """The content of a comparison's status.json.

    ``searching``: the row whose settings are searched now. ``num_runs``: runs that are compared.
    ``seconds``: wall time of these in this submission. ``eta_s``: seconds left of them.
    ``updated_time``: Unix time in seconds.
    """

    name: str
    state: State | Literal["tuning"] = "running"
    searching: str | None = None
    num_runs: int = 0
    num_finished: int = 0
    num_failed: int = 0
    seconds: float = 0.0
    eta_s: float | None = None
    updated_time: float = 0.0

    def update(self, counts: RunCounts) -> None:
        """Copy the progress of the runs."""
        self.num_runs, self.num_finished = counts.num_runs, counts.num_finished
        self.num_failed = counts.num_failed
        self.seconds, self.eta_s = counts.seconds, counts.eta_s


class CompareProgress:
    """Shows the progress of the runs, and writes the files when some have ended."""

    def __init__(
        self,
        compare: CompareSpec,
        specs: Sequence[JobSpec],
        run_records: RunRecords,
        settings: dict[Variant, Point],
        status: CompareStatus,
    ):
        self._compare, self._run_records, self._settings = compare, run_records, settings
        self._progress = RunsProgress(
            compare.name, specs, "top1", compare.progress_interval_s, status.update, print_now
        )
        self._num_written, self._written_s = 0, time.monotonic()

    def __call__(self, trials: FixedTrials) -> None:
        """Show and write what is due."""
        self._progress(trials)
        num_ended = sum(state in ("finished", "failed") for state in trials.states().values())
        is_due = time.monotonic() - self._written_s >= OUTCOME_INTERVAL_S
        if num_ended != self._num_written and is_due:
            # Where the disk fails, the files of the end say the same and more.
            with contextlib.suppress(OSError):
                write_outcome(self.outcome(trials))
            self._num_written, self._written_s = num_ended, time.monotonic()

    def outcome(self, trials: FixedTrials) -> Outcome:
        """What is known now."""
        self._progress.update(trials)
        records: list[RunRecord] = self._run_records.read(trials.states(), trials.errors())
        return outcome_of(self._compare, records, self._settings)
