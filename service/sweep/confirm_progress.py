"""The progress of a sweep's confirming runs, from their journals: log and status."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from service.run.journal import JOURNAL_NAME, Event, JournalReader
from service.run.report import duration, figure
from service.spec.job import JobSpec
from service.sweep.analysis import metric_text
from service.sweep.progress import STATUS_INTERVAL_S, SweepStatus, print_now
from service.sweep.spec import SweepSpec
from service.trials.source import FixedTrials, TrialState


class RunProgress(NamedTuple):
    """How far one confirming run is.

    ``epochs_done``: whole epochs. ``newest``: the last accuracy or loss that it logged, such as
    "loss 0.9964".
    """

    name: str
    state: TrialState
    num_epochs: int
    epochs_done: int
    newest: str


class RunReader:
    """Follows the journal of one run."""

    def __init__(self, spec: JobSpec, metric: str):
        self._spec, self._metric = spec, metric
        self._reader = JournalReader(spec.run_path / JOURNAL_NAME, after=-1)
        self._epochs_done, self._newest = 0, "-"

    def read(self, state: TrialState) -> RunProgress:
        """The progress up to now."""
        with contextlib.suppress(OSError):
            for event in self._reader.read():
                self._take(event)
        num_epochs = self._spec.schedule.num_epochs
        epochs_done = num_epochs if state == "finished" else self._epochs_done
        return RunProgress(self._spec.name, state, num_epochs, epochs_done, self._newest)

    def _take(self, event: Event) -> None:
        if event.kind in ("interval", "evaluation"):
            # A resumed run may repeat an epoch.
            self._epochs_done = event.epoch
        name = f"val/{self._metric}"
        if event.kind == "evaluation" and name in event.values:
            self._newest = f"{name} {metric_text(event.values[name], name)}"
        elif event.kind == "interval":
            self._newest = f"loss {figure(event.values, 'train/loss', '.4f')}"


def confirm_table(
    name: str, runs: Sequence[RunProgress], seconds: float, eta_s: float | None
) -> str:
    """A line for each run that trains or has failed, below the number of runs that are done.

    ``name``: of the sweep. ``seconds``: since the confirming runs of this submission started.
    """
    num_failed = sum(run.state == "failed" for run in runs)
    headline = f"{name}: confirming, {_num_done(runs)} of {len(runs)} runs done"
    headline += f", {num_failed} failed" if num_failed else ""
    headline += f", {duration(seconds)}"
    headline += "" if eta_s is None else f", ETA {duration(eta_s)}"
    rows = [
        (
            run.name,
            run.state,
            f"epoch {min(run.epochs_done + 1, run.num_epochs)} of {run.num_epochs}",
            run.newest,
        )
        for run in runs
        if run.state in ("running", "failed")
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
    lines = [
        "  " + "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]
    return "\n".join([headline, *lines])


def _num_done(runs: Sequence[RunProgress]) -> int:
    return sum(run.state == "finished" for run in runs)


def epochs_done(runs: Sequence[RunProgress]) -> int:
    """Whole epochs of all runs."""
    return sum(run.epochs_done for run in runs)


def eta_s(runs: Sequence[RunProgress], epochs_before: int, seconds: float) -> float | None:
    """Estimated seconds until all runs have ended; None before the first epoch has.

    ``epochs_before``: epochs that earlier submissions trained. ``seconds``: time since then.
    """
    num_done = epochs_done(runs) - epochs_before
    if num_done <= 0:
        return None
    left = sum(run.num_epochs - run.epochs_done for run in runs if run.state != "failed")
    return seconds / num_done * left


class ConfirmProgress:
    """Prints the table and updates the status, each when its interval has passed."""

    def __init__(
        self,
        sweep: SweepSpec,
        specs: Sequence[JobSpec],
        status: SweepStatus,
        show: Callable[[str], None] = print_now,
    ):
        self._sweep, self._status, self._show = sweep, status, show
        self._readers: dict[Path, RunReader] = {
            spec.run_path: RunReader(spec, sweep.metric) for spec in specs
        }
        self._start_s = self._shown_s = time.monotonic()
        self._updated_s = -math.inf
        self._epochs_before: int | None = None

    def __call__(self, trials: FixedTrials) -> None:
        """Print the table and update the status if they are due."""
        now_s = time.monotonic()
        must_show = now_s - self._shown_s >= self._sweep.progress_interval_s
        if must_show or now_s - self._updated_s >= STATUS_INTERVAL_S:
            table = self.update(trials)
            if must_show:
                self._shown_s = now_s
                self._show(table)

    def update(self, trials: FixedTrials) -> str:
        """Copy the progress to the status; returns the table."""
        self._updated_s = time.monotonic()
        seconds = self._updated_s - self._start_s
        runs = [self._readers[path].read(state) for path, state in trials.states().items()]
        if self._epochs_before is None:
            self._epochs_before = epochs_done(runs)
        left_s = eta_s(runs, self._epochs_before, seconds)
        status = self._status
        status.num_confirm_runs, status.num_confirmed = len(runs), _num_done(runs)
        status.num_confirm_failed = sum(run.state == "failed" for run in runs)
        status.confirm_seconds, status.eta_s = seconds, left_s
        return confirm_table(self._sweep.name, runs, seconds, left_s)
