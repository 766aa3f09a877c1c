"""The trials of a search as jobs: their specs, folders and cleanup."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.files import sha256_of
from service.cluster.waiting import release_room
from service.run.durations import durations
from service.run.folder import TRIALS_NAME, write_spec
from service.spec.job import JobSpec
from service.spec.loading import parse_spec
from service.spec.networks import weights_tag
from service.spec.sections import is_file_source
from service.sweep.rules import trial_content
from service.sweep.space import with_values
from service.sweep.spec import SweepSpec
from service.sweep.study import Search, TrialEnd
from service.trials.cleanup import CheckpointCleanup, remove_checkpoints
from service.trials.run_trackers import RunTrackers
from service.trials.source import TrialState, request_stop_of_all


def trial_name(number: int) -> str:
    """Name of a trial's run and folder."""
    return f"trial-{number:04d}"


def trial_spec(sweep: SweepSpec, base: JobSpec, number: int, point: dict[str, Any]) -> JobSpec:
    """The job spec of a trial: the base with a point's values, scored on the held-out images.

    ``base``: the sweep's base, with the paths of weights that were downloaded for all trials.
    """
    content = with_values(trial_content(sweep, base), point)
    content["name"] = trial_name(number)
    storage = content.setdefault("checkpoints", {})
    storage["storage_path"] = str(sweep.sweep_path / TRIALS_NAME)
    return parse_spec(content)


def own_weights_tags(spec: JobSpec, base: JobSpec) -> dict[str, str]:
    """Digests of the weights that a trial has in place of the base's, as tags of its run.

    What torchvision publishes never changes: its name says what it is.
    """
    old = {path: network.weights for path, network in base.networks().items()}
    return {
        weights_tag(path): sha256_of(Path(source)) if is_file_source(source) else source
        for path, network in spec.networks().items()
        if network.weights is not None and network.weights != old.get(path)
        for source in [network.weights.source]
    }


class SearchTrials:
    """A ``TrialSource`` that runs the suggestions of a search and reports their outcomes to it."""

    def __init__(
        self,
        sweep: SweepSpec,
        base: JobSpec,
        search: Search,
        trackers: RunTrackers,
        on_tick: Callable[[], None],
    ):
        self._sweep, self._base, self._search = sweep, base, search
        self._trackers = trackers
        self.on_tick = on_tick
        self._specs: dict[int, JobSpec] = {}
        self._num_failures: dict[int, int] = {}
        folder = sweep.sweep_path / TRIALS_NAME
        # Including trials that an earlier submission did not clean up before it stopped.
        for record in search.records():
            if record.state in ("finished", "stopped"):
                remove_checkpoints(folder / trial_name(record.number))
        self._cleanup = CheckpointCleanup()

    def next(self) -> tuple[int, JobSpec] | None:
        """Number and spec of the next trial, whose folder exists."""
        suggestion = self._search.next()
        if suggestion is None:
            return None
        spec = trial_spec(self._sweep, self._base, suggestion.number, suggestion.point)
        spec.run_path.mkdir(parents=True, exist_ok=True)
        write_spec(spec)
        self._specs[suggestion.number] = spec
        tags = {"trial": str(suggestion.number), **own_weights_tags(spec, self._base)}
        self._trackers.start(spec, tags)
        return suggestion.number, spec

    def report(self, number: int, epoch: int, metrics: dict[str, float]) -> bool:
        """Record an evaluation; returns whether the trial must stop now."""
        # An event that was damaged may lack it.
        score = metrics.get(self._sweep.metric_name, math.nan)
        return self._search.report(number, epoch, score)

    def failed(self, number: int) -> None:
        """Count the failure and release what the failed trial was waiting for."""
        self._num_failures[number] = self._num_failures.get(number, 0) + 1
        release_room(self._specs[number].run_path)

    def end(self, number: int, state: TrialState, error: str | None) -> None:
        """Record how a trial ended."""
        spec = self._specs.pop(number)
        seconds = durations(spec.run_path).training_s
        failures = self._num_failures.pop(number, 0)
        self._search.end(number, TrialEnd(state, seconds, failures, error))
        self._trackers.end(spec, state)
        if state != "failed":
            self._cleanup.add(spec.run_path)

    def stop(self) -> None:
        """Request that the running trials save and exit."""
        request_stop_of_all(self._specs.values())

    def close(self) -> None:
        """Remove what is left of trials that have ended; no process trains any more."""
        self._cleanup.close()
