"""The progress of a fixed list of runs, from their journals: table in the log, and counts."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from service.run.journal import JOURNAL_NAME, Event, JournalReader
from service.run.report import duration, figure, metric_text, print_now
from service.spec.job import JobSpec
from service.trials.source import FixedTrials, TrialState

UPDATE_INTERVAL_S = 5.0


class RunProgress(NamedTuple):
    """How far one run is.

    ``epochs_done``: whole epochs. ``newest``: the last accuracy or loss that it logged, such as
    "loss 0.9964".
    """

    name: str
    state: TrialState
    num_epochs: int
    epochs_done: int
    newest: str


class RunCounts(NamedTuple):
    """The progress of all runs; ``seconds``: since this submission started them."""

    num_runs: int
    num_finished: int
    num_failed: int
    seconds: float
    eta_s: float | None


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


def runs_table(title: str, runs: Sequence[RunProgress], counts: RunCounts) -> str:
    """A line for each run that trains or has failed, below the number of runs that are done."""
    headline = f"{title}, {counts.num_finished} of {counts.num_runs} runs done"
    headline += f", {counts.num_failed} failed" if counts.num_failed else ""
    headline += f", {duration(counts.seconds)}"
    headline += "" if counts.eta_s is None else f", ETA {duration(counts.eta_s)}"
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


class RunsProgress:
    """Prints the table and passes the counts on, each when its interval has passed.

    ``title``: first words of the table. ``metric``: on val, shown of each run. ``take``: gets the
    counts.
    """

    def __init__(
        self,
        title: str,
        specs: Sequence[JobSpec],
        metric: str,
        interval_s: float,
        take: Callable[[RunCounts], None],
        show: Callable[[str], None] = print_now,
    ):
        self._title, self._interval_s, self._take, self._show = title, interval_s, take, show
        self._readers: dict[Path, RunReader] = {
            spec.run_path: RunReader(spec, metric) for spec in specs
        }
        self._start_s = self._shown_s = time.monotonic()
        self._updated_s = -math.inf
        self._epochs_before: int | None = None

    def __call__(self, trials: FixedTrials) -> None:
        """Print the table and update the counts if they are due."""
        now_s = time.monotonic()
        must_show = now_s - self._shown_s >= self._interval_s
        if must_show or now_s - self._updated_s >= UPDATE_INTERVAL_S:
            table = self.update(trials)
            if must_show:
                self._shown_s = now_s
                self._show(table)

    def update(self, trials: FixedTrials) -> str:
        """Pass the counts on; returns the table."""
        self._updated_s = time.monotonic()
        seconds = self._updated_s - self._start_s
        runs = [self._readers[path].read(state) for path, state in trials.states().items()]
        if self._epochs_before is None:
            self._epochs_before = epochs_done(runs)
        counts = RunCounts(
            len(runs),
            sum(run.state == "finished" for run in runs),
            sum(run.state == "failed" for run in runs),
            seconds,
            eta_s(runs, self._epochs_before, seconds),
        )
        self._take(counts)
        return runs_table(self._title, runs, counts)
