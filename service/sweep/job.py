"""Runs a sweep: claim the folder, build, search, confirm, publish."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlflow

from data_pipeline.files import write_atomically
from service.build import build_job
from service.cluster.address import check_address
from service.cluster.launch import connect
from service.plan import build_models_on_meta
from service.provenance import provenance_tags
from service.run.claim import check_inputs, claim_run_folder, forget_rejected, has_started
from service.run.folder import TRIALS_NAME, write_spec, write_tags
from service.run.status import State, StatusFile
from service.run.student_card import read_classes, write_classes
from service.spec.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from service.spec.job import JobSpec
from service.spec.overlap import overlap_warnings
from service.sweep.comparison import COMPARISON_NAME, Comparison
from service.sweep.confirm import compare, confirm_specs
from service.sweep.loading import LoadedSweep
from service.sweep.outcome import BEST_NAME, Outcome, write_outcome
from service.sweep.progress import ProgressReporter, SweepStatus, progress_table, summary
from service.sweep.publish import adopt_tracking, publish_sweep
from service.sweep.resuming import check_same_sweep
from service.sweep.rules import boundary_points
from service.sweep.space import SearchSpace, own_point
from service.sweep.spec import SWEEP_NAME, SweepSpec
from service.sweep.study import STUDY_NAME, Search
from service.sweep.trials import SearchTrials, trial_spec
from service.tracking.job_check import check_tracking
from service.tracking.mlflow_run import tracking_uri
from service.trials.capacity import plan_concurrency
from service.trials.run_trackers import RunTrackers, find_parent
from service.trials.runner import run_trials
from service.trials.source import FixedTrials

STATES: dict[int, State] = {EXIT_DONE: "finished", EXIT_FAILED: "failed", EXIT_STOPPED: "stopped"}


def run_sweep(loaded: LoadedSweep, num_seeds: int = 0) -> int:
    """Run a sweep and return the exit status.

    ``num_seeds``: number of seeds to compare the best settings and the base's own; 0 for none.

    Raises:
        BadInputError: before training, if the sweep, its files or the cluster are not suitable.
    """
    sweep = loaded.sweep
    mlflow.set_tracking_uri(tracking_uri(sweep.base))
    check_models(sweep)
    spec = sweep.as_job()
    with claim_run_folder(spec):
        check_same_sweep(loaded)
        if not has_started(spec.run_path):
            # Before weights are fetched; a search that is over needs no cluster.
            check_address()
        check_tracking(loaded.base._replace(spec=spec))
        # Weights are downloaded once; all trials read the same file.
        built = build_job(spec)
        check_inputs(spec, built.digests)
        tags = provenance_tags(loaded.base._replace(spec=spec), built.digests)
        tags |= {"sweep": sweep.name}
        for warning in overlap_warnings(spec.dataset, sweep.held_out):
            print(f"warning: {warning}", flush=True)
        _forget_rejected(sweep)
        write_spec(spec)
        write_atomically(sweep.sweep_path / SWEEP_NAME, sweep.model_dump_json(indent=1) + "\n")
        write_tags(sweep.sweep_path, tags)
        write_classes(sweep.sweep_path, loaded.base.train.classes)
        adopt_tracking(sweep)
        return SweepRun(sweep, built.spec, tags).run(num_seeds)


def check_models(sweep: SweepSpec) -> None:
    """Check that the models of all trials can be built and accept the image sizes.

    Raises:
        BadInputError: a model cannot be built or does not accept its image size.
    """
    seen = set()
    for point in boundary_points(sweep):
        spec = trial_spec(sweep, sweep.base, 0, point)
        key = (spec.student, spec.teacher, spec.augmentation)
        if key not in seen:
            seen.add(key)
            build_models_on_meta(spec)


def _forget_rejected(sweep: SweepSpec) -> None:
    """Remove the search of a submission that was rejected before a trial's first step."""
    if not has_started(sweep.sweep_path):
        forget_rejected(sweep.as_job())
        (sweep.sweep_path / STUDY_NAME).unlink(missing_ok=True)
        shutil.rmtree(sweep.sweep_path / TRIALS_NAME, ignore_errors=True)


class StopRequest:
    """A flag: whether a stop of the sweep was requested."""

    is_set = False

    def __call__(self) -> bool:
        """Whether a stop was requested."""
        return self.is_set


@contextmanager
def stop_on_signals(request: StopRequest) -> Iterator[None]:
    """Set ``request`` on SIGTERM and SIGINT: trials save and exit, and the sweep stops."""

    def set_request(*_: Any) -> None:  # noqa: ANN401 - signal number and frame
        request.is_set = True

    handlers = {kind: signal.signal(kind, set_request) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for kind, handler in handlers.items():
            signal.signal(kind, handler)


class SweepRun:
    """One submission of a sweep, whose folder is claimed.

    ``base``: the base under the sweep's name, with the paths of downloaded weights.
    """

    def __init__(self, sweep: SweepSpec, base: JobSpec, tags: dict[str, str]):
        self._sweep, self._base, self._tags, self._stop = sweep, base, tags, StopRequest()
        self._search = Search(sweep)
        self._uri = tracking_uri(sweep.base)
        self._concurrency = 0
        self._file = StatusFile(sweep.sweep_path, SweepStatus(sweep.name, sweep.metric_name))

    def run(self, num_seeds: int) -> int:
        """Search, confirm and publish; return the exit status."""
        status, state = self._file.status, STATES[EXIT_FAILED]
        try:
            exit_status = self._run(num_seeds)
            state = STATES[exit_status]
        finally:
            status.update(self._sweep, self._search)
            status.state = state
            self._file.close()
        return exit_status

    def _run(self, num_seeds: int) -> int:
        parent = find_parent(self._sweep.as_job(), self._uri)
        trackers = RunTrackers(self._uri, self._tags, parent, read_classes(self._sweep.sweep_path))
        comparison: Comparison | None = None
        try:
            self._run_search(trackers)
            outcome = write_outcome(self._sweep, self._search.records())
            print(self._table(), flush=True)
            print(summary(self._sweep, outcome.records), flush=True)
            if num_seeds and outcome.best is not None and not self._stop.is_set:
                comparison = self._confirm(trackers, outcome, num_seeds)
        finally:
            trackers.close()
        if comparison is not None:
            print(comparison, flush=True)
            outcome = write_outcome(self._sweep, self._search.records())
        return self._publish(outcome)

    def _run_search(self, trackers: RunTrackers) -> None:
        progress = ProgressReporter(self._sweep, self._search, self._file.status)
        trials = SearchTrials(self._sweep, self._base, self._search, trackers, progress)
        if self._search.is_over:
            print(
                f"the search of {self._sweep.name} is already finished; no trial is run", flush=True
            )
        else:
            # An earlier comparison is outdated if a new trial becomes the best.
            (self._sweep.sweep_path / COMPARISON_NAME).unlink(missing_ok=True)
            self._run_trials(trials)
            self._search.stop()
        trials.close()

    def _confirm(
        self, trackers: RunTrackers, outcome: Outcome, num_seeds: int
    ) -> Comparison | None:
        assert outcome.best is not None, "the caller checks it"
        point = dict(outcome.best.params)
        if point == own_point(self._sweep.base, SearchSpace(self._sweep.space)):
            print("the best settings are the base's own: no comparison is run", flush=True)
            return None
        specs = confirm_specs(self._sweep, self._base, point, num_seeds)
        trials = FixedTrials(list(specs.values()), trackers, "confirms")
        if not trials.are_finished:
            print(
                f"training the best and the default settings with {num_seeds} seeds each",
                flush=True,
            )
            self._run_trials(trials)
        comparison = compare(self._sweep, specs, len(outcome.records))
        if comparison is not None:
            comparison.write(self._sweep.sweep_path)
        return comparison

    def _run_trials(self, trials: SearchTrials | FixedTrials) -> None:
        if self._concurrency == 0:
            connect()
            resources = self._sweep.resources or self._sweep.base.resources
            self._concurrency = plan_concurrency(resources, self._sweep.concurrency)
            print(f"{self._concurrency} trials at a time", flush=True)
        # After connect(), in which Ray installs its own handlers.
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

    def _publish(self, outcome: Outcome) -> int:
        sweep = self._sweep
        is_stopped = self._stop.is_set
        address = publish_sweep(sweep, self._tags, outcome, is_stopped=is_stopped)
        print(f"sweep: {address or 'not in MLflow yet'}", flush=True)
        if is_stopped:
            print(
                f"{sweep.name} was stopped; submit the same sweep to resume it from "
                f"{sweep.sweep_path}",
                flush=True,
            )
            return EXIT_STOPPED
        if outcome.best is None:
            return EXIT_FAILED
        print(f"the best settings as a job: {sweep.sweep_path / BEST_NAME}", flush=True)
        return EXIT_DONE
