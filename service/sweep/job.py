"""A sweep from spec to answer: check, claim, search, choose, confirm, tell."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlflow
from torch import nn

from service.cluster.run_folder import TAGS_NAME, claimed_run_folder, differences
from service.cluster.trainer import connect
from service.files import write_atomically
from service.job import build_models, with_fetched_weights, with_local_weights
from service.plan import check_sizes
from service.problems import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, BadInputError
from service.provenance import provenance_tags
from service.sweep.confirm import RESULT_NAME, Comparison, ConfirmTrials, compare, confirm_specs
from service.sweep.outcome import BEST_NAME, Outcome, write_outcome
from service.sweep.progress import Progress, SweepStatus, progress_table, summary
from service.sweep.publish import publish_sweep
from service.sweep.room import plan_concurrency
from service.sweep.rules import telling_points
from service.sweep.search import Search
from service.sweep.space import SearchSpace, own_point
from service.sweep.spec import SWEEP_NAME, SweepSpec
from service.sweep.tracking import RunTrackers, find_parent, identity
from service.sweep.trials import SearchTrials, trial_spec
from service.sweep.tuner import run_trials
from service.tracking.mlflow_run import tracking_uri
from service.tracking.status import State, StatusFile

# What may be changed of a sweep that is gone on with: it changes no trial that there is.
CHANGEABLE = ("budget", "concurrency", "max_failures", "progress_interval_s")

STATES: dict[int, State] = {EXIT_DONE: "finished", EXIT_FAILED: "failed", EXIT_STOPPED: "stopped"}


def run_sweep(sweep: SweepSpec, num_seeds: int = 0) -> int:
    """Run ``sweep`` to its end and return the exit status.

    ``num_seeds``: with how many seeds the best settings and the base's own are compared at the end.

    Raises:
        BadInputError: before any training, where the sweep, its files or the cluster do not fit.
    """
    check_same_sweep(sweep)
    mlflow.set_tracking_uri(tracking_uri(sweep.base))
    stand_in = identity(sweep)
    check_models(sweep)
    models = build_models(with_fetched_weights(stand_in))
    tags = {**provenance_tags(stand_in, models.get("teacher")), "sweep": sweep.name}
    with claimed_run_folder(stand_in):
        write_atomically(sweep.sweep_path / SWEEP_NAME, sweep.model_dump_json(indent=1) + "\n")
        write_atomically(sweep.sweep_path / TAGS_NAME, json.dumps(tags, indent=1) + "\n")
        return SweepJob(sweep, models, tags).run(num_seeds)


def check_models(sweep: SweepSpec) -> None:
    """Refuse models of any trial that cannot take its images, or cannot be built.

    Raises:
        BadInputError: naming the model.
    """
    seen = set()
    for point in telling_points(sweep):
        spec = trial_spec(sweep, sweep.base, 0, point)
        key = (spec.student, spec.teacher, spec.augmentation)
        if key not in seen:
            seen.add(key)
            check_sizes(spec)


def check_same_sweep(sweep: SweepSpec) -> None:
    """Refuse a changed sweep under the name of one that exists: it would be gone on with.

    Raises:
        BadInputError: naming each field that differs.
    """
    path = sweep.sweep_path / SWEEP_NAME
    if path.exists():
        old = SweepSpec.model_validate_json(path.read_text())
        if problems := differences(old, sweep, path, f"the sweep {sweep.name!r}", CHANGEABLE):
            raise BadInputError("sweep", problems)


class StopRequest:
    """Whether whoever runs the sweep was asked to stop."""

    is_made = False

    def __call__(self) -> bool:
        """The same as a function."""
        return self.is_made


@contextmanager
def stop_on_signals(request: StopRequest) -> Iterator[None]:
    """SIGTERM and SIGINT let trials save and leave, and end the sweep."""

    def ask(*_: Any) -> None:  # noqa: ANN401 - a signal's number and frame
        request.is_made = True

    handlers = {kind: signal.signal(kind, ask) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for kind, handler in handlers.items():
            signal.signal(kind, handler)


class SweepJob:
    """One submission of a sweep, in a folder that is its alone."""

    def __init__(
        self,
        sweep: SweepSpec,
        models: dict[str, nn.Module],
        tags: dict[str, str],
    ):
        self._sweep, self._tags, self._stop = sweep, tags, StopRequest()
        # Fetched once, into the sweep's folder; every trial reads the same file.
        self._base = with_local_weights(identity(sweep), models)
        self._search = Search(sweep, sweep.sweep_path)
        self._uri = tracking_uri(sweep.base)
        self._concurrency = 0
        self._file = StatusFile(sweep.sweep_path, SweepStatus(sweep.name, sweep.metric_name))

    def run(self, num_seeds: int) -> int:
        """Search, confirm, tell; the exit status."""
        status, state = self._file.status, STATES[EXIT_FAILED]
        try:
            exit_status = self._run(num_seeds)
            state = STATES[exit_status]
        finally:
            status.take(self._sweep, self._search)
            status.state = state
            self._file.close()
        return exit_status

    def _run(self, num_seeds: int) -> int:
        parent = find_parent(self._sweep, self._uri)
        trackers = RunTrackers(self._uri, self._tags, parent)
        comparison: Comparison | None = None
        try:
            self._run_search(trackers)
            outcome = write_outcome(self._sweep, self._search.records())
            print(self._table(), flush=True)
            print(summary(self._sweep, outcome.records), flush=True)
            if num_seeds and outcome.best is not None and not self._stop.is_made:
                comparison = self._confirm(trackers, outcome, num_seeds)
        finally:
            trackers.close()
        if comparison is not None:
            print(comparison, flush=True)
            outcome = write_outcome(self._sweep, self._search.records())
        return self._tell(outcome)

    def _run_search(self, trackers: RunTrackers) -> None:
        progress = Progress(self._sweep, self._search, self._file.status)
        trials = SearchTrials(self._sweep, self._base, self._search, trackers, progress)
        if self._search.is_over:
            print(f"{self._sweep.name} has searched already; no trial is run", flush=True)
        else:
            # Another trial may become the best, of which it says nothing.
            (self._sweep.sweep_path / RESULT_NAME).unlink(missing_ok=True)
            self._run_trials(trials)
            self._search.leave()
        trials.close()

    def _confirm(
        self, trackers: RunTrackers, outcome: Outcome, num_seeds: int
    ) -> Comparison | None:
        assert outcome.best is not None, "there is something to confirm"
        point = dict(outcome.best.params)
        if point == own_point(self._sweep.base, SearchSpace(self._sweep.space)):
            print("the best settings are the base's own: there is nothing to compare", flush=True)
            return None
        specs = confirm_specs(self._sweep, self._base, point, num_seeds)
        trials = ConfirmTrials(list(specs.values()), trackers)
        if not trials.are_over:
            print(
                f"training the best and the default settings with {num_seeds} seeds each",
                flush=True,
            )
            self._run_trials(trials)
        comparison = compare(self._sweep, specs, len(outcome.records))
        if comparison is not None:
            comparison.write(self._sweep.sweep_path)
        return comparison

    def _run_trials(self, trials: SearchTrials | ConfirmTrials) -> None:
        if self._concurrency == 0:
            connect()
            resources = self._sweep.resources or self._sweep.base.resources
            self._concurrency = plan_concurrency(resources, self._sweep.concurrency)
            print(f"{self._concurrency} trials at a time", flush=True)
        # Ray has set its own handlers when it was joined.
        with stop_on_signals(self._stop):
            run_trials(
                trials,
                self._sweep.sweep_path,
                concurrency=self._concurrency,
                max_failures=self._sweep.max_failures,
                must_stop=self._stop,
            )

    def _table(self) -> str:
        search = self._search
        return progress_table(self._sweep, search.records(), search.num_trials, search.seconds)

    def _tell(self, outcome: Outcome) -> int:
        sweep = self._sweep
        is_stopped = self._stop.is_made
        address = publish_sweep(sweep, self._tags, outcome, is_stopped=is_stopped)
        print(f"sweep: {address or 'not in MLflow yet'}", flush=True)
        if is_stopped:
            print(
                f"{sweep.name} was stopped; submit the same sweep to go on from {sweep.sweep_path}",
                flush=True,
            )
            return EXIT_STOPPED
        if outcome.best is None:
            return EXIT_FAILED
        print(f"the best settings as a job: {sweep.sweep_path / BEST_NAME}", flush=True)
        return EXIT_DONE
