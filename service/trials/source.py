"""The interface that provides trials, and an implementation for a fixed list of jobs."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from service.cluster.waiting import release_room
from service.run.control import request_stop
from service.run.folder import write_spec
from service.run.result import read_result
from service.spec.job import JobSpec
from service.trials.cleanup import CheckpointCleanup, remove_checkpoints
from service.trials.run_trackers import RunTrackers

TrialState = Literal["waiting", "running", "finished", "stopped", "failed"]
"""stopped: by the scheduler, before the last epoch. waiting: not started, or to be resumed."""


class TrialSource(Protocol):
    """Provides trials to ``run_trials`` and receives their results."""

    def next(self) -> tuple[int, JobSpec] | None:
        """Number and spec of the next trial, whose folder exists; None when there are no more."""

    def report(self, number: int, epoch: int, metrics: dict[str, float]) -> bool:
        """Record the metrics of an evaluation; returns whether the trial must stop now."""

    def failed(self, number: int) -> None:
        """A trial failed; it is retried from its checkpoint, unless ``end`` is called next."""

    def end(self, number: int, state: TrialState, error: str | None) -> None:
        """A trial has ended and will not be retried."""

    def on_tick(self) -> None:
        """Called several times a second."""

    def stop(self) -> None:
        """Request that running trials save and exit, to be resumed later."""


def request_stop_of_all(specs: Iterable[JobSpec]) -> None:
    """Request a stop of several runs; if the storage fails, Ray stops them later."""
    for spec in specs:
        with contextlib.suppress(OSError):
            request_stop(spec.run_path)


class FixedTrials:
    """Trains the unfinished jobs of a list, each to its last epoch; removes their checkpoints.

    ``tags_of``: MLflow tags of a job's run. ``on_tick``: called several times a second. ``show``:
    prints how a job ended.
    """

    def __init__(
        self,
        specs: Sequence[JobSpec],
        trackers: RunTrackers,
        tags_of: Callable[[JobSpec], Mapping[str, str]],
        on_tick: Callable[["FixedTrials"], None] = lambda _: None,
        show: Callable[[str], None] = print,
    ):
        self._specs, self._trackers, self._tags_of = list(specs), trackers, tags_of
        self._on_tick, self._show = on_tick, show
        self._pending = [n for n, s in enumerate(specs) if read_result(s.run_path) is None]
        self._running: dict[int, JobSpec] = {}
        self._errors: dict[int, str] = {}
        self._cleanup = CheckpointCleanup()
        for number in set(range(len(specs))) - set(self._pending):
            # Of a job whose submission was killed before it was cleaned up.
            remove_checkpoints(specs[number].run_path)

    def states(self) -> dict[Path, TrialState]:
        """The state of each job, by its folder."""
        return {spec.run_path: self._state(number) for number, spec in enumerate(self._specs)}

    def errors(self) -> dict[Path, str]:
        """Why jobs failed in this submission, by their folders."""
        return {self._specs[number].run_path: text for number, text in self._errors.items()}

    def _state(self, number: int) -> TrialState:
        if number in self._running:
            return "running"
        if number in self._errors:
            return "failed"
        return "waiting" if number in self._pending else "finished"

    @property
    def are_finished(self) -> bool:
        """Whether all jobs have results."""
        return not self._pending

    def next(self) -> tuple[int, JobSpec] | None:
        """The next job that has no result."""
        if not self._pending:
            return None
        number = self._pending.pop(0)
        spec = self._running[number] = self._specs[number]
        spec.run_path.mkdir(parents=True, exist_ok=True)
        write_spec(spec)
        self._trackers.start(spec, self._tags_of(spec))
        return number, spec

    def report(
        self,
        number: int,  # noqa: ARG002 - part of the interface
        epoch: int,  # noqa: ARG002
        metrics: dict[str, float],  # noqa: ARG002
    ) -> bool:
        """False: no job is stopped early."""
        return False

    def failed(self, number: int) -> None:
        """Release what the failed job was waiting for."""
        release_room(self._specs[number].run_path)

    def end(self, number: int, state: TrialState, error: str | None) -> None:
        """Report how a job ended."""
        del self._running[number]
        if state == "failed":
            self._errors[number] = error or "it failed"
        else:
            self._cleanup.add(self._specs[number].run_path)
        self._trackers.end(self._specs[number], state)
        self._show(f"{self._specs[number].name}: {error or state}")

    def on_tick(self) -> None:
        """Called several times a second."""
        self._on_tick(self)

    def stop(self) -> None:
        """Request that the running jobs save and exit."""
        request_stop_of_all(self._running.values())

    def close(self) -> None:
        """Remove what is left of jobs that have finished; no process trains any more."""
        self._cleanup.close()
