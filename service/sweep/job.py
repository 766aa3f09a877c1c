"""Runs a sweep: claim the folder, build, search, confirm, publish."""

import shutil
from contextlib import nullcontext, suppress

import mlflow

from data_pipeline.files import write_atomically
from service.build import BuiltJob, build_job
from service.cluster.address import check_address
from service.cluster.ray_internals import check_tune
from service.plan import build_models_on_meta
from service.provenance import provenance_tags
from service.run.claim import check_inputs, claim_run_folder, forget_rejected, has_started
from service.run.folder import TRIALS_NAME, write_spec, write_tags
from service.run.report import print_now
from service.run.status import State, StatusFile, write_stopped
from service.run.stop_signals import JobStoppedError, StopSignals
from service.run.student_card import read_classes, write_classes
from service.spec.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from service.spec.image_warnings import small_image_warnings
from service.spec.job import JobSpec
from service.spec.overlap import overlap_warnings
from service.spec.teacher_classes import classes_tags, with_resolved_classes
from service.sweep.cached_runs import advice_lines
from service.sweep.comparison import COMPARISON_NAME
from service.sweep.confirm import (
    compare,
    confirm_progress,
    confirm_specs,
    confirm_tags,
    remove_outdated,
)
from service.sweep.loading import LoadedSweep
from service.sweep.outcome import BEST_NAME, Outcome, write_outcome
from service.sweep.progress import (
    ProgressReporter,
    SweepStatus,
    progress_table,
    summary,
)
from service.sweep.publish import publish_sweep, run_folders
from service.sweep.resuming import check_same_sweep, has_other_scheduler
from service.sweep.rules import boundary_points
from service.sweep.space import SearchSpace, point_of_job
from service.sweep.spec import SWEEP_NAME, SweepSpec
from service.sweep.study import STUDY_NAME, Search
from service.sweep.trials import SearchTrials, trial_spec
from service.tracking.job_check import check_tracking
from service.tracking.mlflow_run import tracking_uri
from service.trials.child_runs import adopt_tracking
from service.trials.cluster import TrialCluster
from service.trials.run_trackers import RunTrackers, find_parent
from service.trials.source import FixedTrials

SCRIPT = "jobs/sweep.py"
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
    spec, signals = sweep.as_job(), StopSignals()
    with signals.installed(), claim_run_folder(spec):
        try:
            base, digests = _prepare(loaded, signals)
        except JobStoppedError:
            write_stopped(spec.run_path)
            print_now(f"{sweep.name} was stopped; submit the same sweep to resume it")
            return EXIT_STOPPED
        warnings = small_image_warnings(spec, loaded.base.train, loaded.base.val)
        for warning in [*warnings, *overlap_warnings(spec.dataset, sweep.held_out)]:
            print_now(f"warning: {warning}")
        if not has_started(spec.run_path):
            for line in advice_lines(sweep, loaded.base._replace(spec=spec)):
                print_now(line)
        tags = provenance_tags(loaded.base._replace(spec=spec), digests, SCRIPT)
        tags["sweep"] = sweep.name
        _forget_rejected(sweep)
        write_spec(spec)
        write_atomically(sweep.sweep_path / SWEEP_NAME, sweep.model_dump_json(indent=1) + "\n")
        write_tags(sweep.sweep_path, tags)
        write_classes(sweep.sweep_path, loaded.base.classes)
        adopt_tracking(run_folders(sweep), sweep.base.tracking)
        return SweepRun(sweep, base, tags, signals).run(num_seeds)


def _prepare(loaded: LoadedSweep, signals: StopSignals) -> BuiltJob:
    """Check and build what the trials need, once; they all read the same weights.

    Raises:
        BadInputError: something does not fit.
        JobStoppedError: a signal arrived.
    """
    spec = loaded.sweep.as_job()
    check_same_sweep(loaded)
    if has_other_scheduler(loaded.sweep):
        num_stopped = sum(r.state == "stopped" for r in Search(loaded.sweep).records())
        print_now(f"the scheduler has changed: {num_stopped} trials stopped earlier stay stopped")
    if not has_started(spec.run_path):
        # Before weights are fetched; a search that is over needs no cluster.
        check_address()
        check_tune()
    signals.check()
    check_tracking(loaded.base._replace(spec=spec))
    with signals.interruptible():
        built = build_job(spec)
    # Each trial resolves those of its own teacher.
    resolved_spec = with_resolved_classes(built.spec, loaded.base.classes)
    built = built._replace(digests={**built.digests, **classes_tags(resolved_spec)})
    check_inputs(spec, built.digests)
    signals.check()
    return built


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


class SweepRun:
    """One submission of a sweep, whose folder is claimed.

    ``base``: the base under the sweep's name, with the paths of downloaded weights.
    """

    def __init__(self, sweep: SweepSpec, base: JobSpec, tags: dict[str, str], signals: StopSignals):
        self._sweep, self._base, self._tags, self._signals = sweep, base, tags, signals
        self._search = Search(sweep)
        self._uri = tracking_uri(sweep.base)
        resources = sweep.resources or sweep.base.resources
        self._cluster = TrialCluster(
            sweep.sweep_path, resources, sweep.concurrency, sweep.max_failures, signals
        )
        self._file = StatusFile(sweep.sweep_path, SweepStatus(sweep.name, sweep.metric_name))

    def run(self, num_seeds: int) -> int:
        """Search, confirm and publish; return the exit status."""
        status, state = self._file.status, STATES[EXIT_FAILED]
        try:
            exit_status = self._run(num_seeds)
            state = STATES[exit_status]
        finally:
            status.state = state
            if state != "stopped":
                status.eta_s = None
            self._file.close()
        return exit_status

    def _run(self, num_seeds: int) -> int:
        parent = find_parent(self._sweep.as_job(), self._uri)
        trackers = RunTrackers(self._uri, self._tags, parent, read_classes(self._sweep.sweep_path))
        is_confirmed = True
        try:
            self._run_search(trackers)
            outcome = write_outcome(self._sweep, self._search.records())
            print_now(self._table())
            print_now(summary(self._sweep, outcome.records))
            if num_seeds and outcome.best is not None and not self._signals.is_set:
                is_confirmed = self._confirm(trackers, outcome, num_seeds)
                outcome = write_outcome(self._sweep, self._search.records())
        finally:
            trackers.close()
        return self._publish(outcome, is_confirmed=is_confirmed)

    def _run_search(self, trackers: RunTrackers) -> None:
        progress = ProgressReporter(self._sweep, self._search, self._file.status)
        trials = SearchTrials(self._sweep, self._base, self._search, trackers, progress)
        try:
            if self._search.is_over:
                print_now(f"the search of {self._sweep.name} is already finished; no trial is run")
            else:
                # An earlier comparison is outdated if a new trial becomes the best.
                (self._sweep.sweep_path / COMPARISON_NAME).unlink(missing_ok=True)
                self._run_trials(trials)
                self._search.stop()
            trials.close()
        finally:
            self._file.status.update(self._sweep, self._search)

    def _confirm(self, trackers: RunTrackers, outcome: Outcome, num_seeds: int) -> bool:
        """Train and compare; returns whether all runs have ended well, unless the sweep stops."""
        assert outcome.best is not None, "the caller checks it"
        point = dict(outcome.best.params)
        if point == point_of_job(self._sweep.base, SearchSpace(self._sweep.space)):
            print_now("the best settings are the base's own: no comparison is run")
            return True
        specs = confirm_specs(self._sweep, self._base, point, num_seeds)
        jobs = list(specs.values())
        remove_outdated(jobs)
        progress = confirm_progress(self._sweep, jobs, self._file.status)
        trials = FixedTrials(jobs, trackers, confirm_tags, progress, print_now)
        self._file.status.state = "confirming"
        progress.update(trials)
        self._file.write()
        if not trials.are_finished:
            print_now(f"training the best and the default settings with {num_seeds} seeds each")
            self._run_trials(trials)
        trials.close()
        progress.update(trials)
        if self._signals.is_set:
            return True
        comparison = compare(self._sweep, specs, len(outcome.records))
        if comparison is None:
            print_now(
                "no comparison: with each seed, a run failed; submit the sweep again to retry"
            )
            return False
        comparison.write(self._sweep.sweep_path)
        print_now(comparison)
        return not comparison.left_out

    def _run_trials(self, trials: SearchTrials | FixedTrials) -> None:
        self._cluster.run(trials)
        if self._signals.is_set:
            # Now: the process may be killed before the page and MLflow have been updated.
            self._file.status.state = "stopped"
            self._file.write()

    def _table(self) -> str:
        search = self._search
        return progress_table(self._sweep, search.records(), search.num_trials, search.seconds)

    def _publish(self, outcome: Outcome, *, is_confirmed: bool) -> int:
        sweep = self._sweep
        is_stopped, address = self._signals.is_set, None
        may_stop = nullcontext() if is_stopped else self._signals.interruptible()
        with suppress(JobStoppedError), may_stop:
            address = publish_sweep(sweep, self._tags, outcome, is_stopped=is_stopped)
        print_now(f"sweep: {address or 'not in MLflow yet'}")
        if is_stopped:
            print_now(
                f"{sweep.name} was stopped; submit the same sweep to resume it from "
                f"{sweep.sweep_path}"
            )
            return EXIT_STOPPED
        if outcome.best is None:
            return EXIT_FAILED
        print_now(f"the best settings as a job: {sweep.sweep_path / BEST_NAME}")
        return EXIT_DONE if is_confirmed else EXIT_FAILED
