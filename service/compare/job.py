"""Runs a comparison: claim the folder, build, tune, train, compare, publish."""

from contextlib import nullcontext, suppress

import mlflow

from data_pipeline.files import write_atomically
from service.cluster.address import check_address
from service.cluster.ray_internals import check_tune
from service.compare.build import (
    SCRIPT,
    BuiltVariant,
    build_variants,
    check_files_fit,
    check_models,
    weights_tags,
)
from service.compare.cached_runs import cached_runs
from service.compare.jobs import RunKey
from service.compare.loading import LoadedComparison
from service.compare.networks import check_mlflow_weights
from service.compare.outcome import PAGE_NAME, Outcome, outcome_of, write_outcome
from service.compare.progress import CompareProgress, CompareStatus
from service.compare.publish import child_runs, publish_comparison
from service.compare.reading import RunRecords
from service.compare.resuming import check_same_comparison
from service.compare.spec import COMPARE_NAME, Variant
from service.compare.tuned_space import tuned_rows
from service.compare.tuning import found_settings, run_search
from service.compare.warnings import comparison_warnings
from service.provenance import provenance_tags
from service.run.claim import claim_run_folder, forget_rejected
from service.run.folder import RUNS_NAME, write_spec, write_tags
from service.run.report import print_now
from service.run.result import read_result
from service.run.status import State, StatusFile, write_stopped
from service.run.stop_signals import JobStoppedError, StopSignals
from service.run.student_card import read_classes, write_classes
from service.spec.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from service.spec.job import JobSpec
from service.sweep.space import Point
from service.teacher_cache.estimate import concurrent_lines
from service.tracking.job_check import unanswered
from service.tracking.mlflow_run import tracking_uri
from service.trials.child_runs import adopt_tracking
from service.trials.cluster import TrialCluster
from service.trials.run_trackers import RunTrackers, find_parent
from service.trials.source import FixedTrials

STATES: dict[int, State] = {EXIT_DONE: "finished", EXIT_FAILED: "failed", EXIT_STOPPED: "stopped"}


def run_comparison(loaded: LoadedComparison) -> int:
    """Run a comparison and return the exit status.

    Raises:
        BadInputError: before training, if the comparison, its files or the cluster are not
            suitable.
    """
    compare, signals = loaded.compare, StopSignals()
    mlflow.set_tracking_uri(tracking_uri(compare.base))
    check_models(loaded)
    spec = compare.as_job()
    with signals.installed(), claim_run_folder(spec):
        try:
            built = _prepare(loaded, signals)
        except JobStoppedError:
            write_stopped(spec.run_path)
            print_now(f"{compare.name} was stopped; submit the same comparison to resume it")
            return EXIT_STOPPED
        for warning in comparison_warnings(loaded):
            print_now(f"warning: {warning}")
        if compare.concurrency != 1:
            for line in concurrent_lines(cached_runs(loaded)):
                print_now(line)
        tags = provenance_tags(loaded.base, weights_tags(built), SCRIPT)
        tags["comparison"] = compare.name
        forget_rejected(spec)
        write_spec(spec)
        write_atomically(spec.run_path / COMPARE_NAME, compare.model_dump_json(indent=1) + "\n")
        write_tags(spec.run_path, tags)
        write_classes(spec.run_path, loaded.base.classes)
        adopt_tracking(child_runs(compare), compare.base.tracking)
        return CompareRun(loaded, built, tags, signals).run()


def _prepare(loaded: LoadedComparison, signals: StopSignals) -> dict[Variant, BuiltVariant]:
    """Check and build what the runs need, once for all.

    Raises:
        BadInputError: something does not fit.
        JobStoppedError: a signal arrived.
    """
    check_same_comparison(loaded)
    check_files_fit(loaded)
    specs = loaded.run_specs()
    if any(read_result(spec.run_path) is None for spec in specs.values()):
        # Before weights are fetched; what is finished needs no cluster.
        check_address()
        check_tune()
    signals.check()
    if not unanswered(loaded.base.spec):
        check_mlflow_weights(loaded)
    with signals.interruptible():
        (loaded.compare.compare_path / RUNS_NAME).mkdir(exist_ok=True)
        built = build_variants(loaded, specs)
    signals.check()
    return built


class CompareRun:
    """One submission of a comparison, whose folder is claimed."""

    def __init__(
        self,
        loaded: LoadedComparison,
        built: dict[Variant, BuiltVariant],
        tags: dict[str, str],
        signals: StopSignals,
    ):
        compare = loaded.compare
        self._loaded, self._compare, self._built = loaded, compare, built
        self._tags, self._signals = tags, signals
        self._uri = tracking_uri(compare.base)
        self._parent = find_parent(compare.as_job(), self._uri)
        resources = compare.resources or compare.base.resources
        self._cluster = TrialCluster(
            compare.compare_path,
            resources,
            compare.concurrency,
            compare.max_failures,
            signals,
            noun="runs",
        )
        self._file = StatusFile(compare.compare_path, CompareStatus(compare.name))

    def run(self) -> int:
        """Tune, train, compare and publish; return the exit status."""
        status, state = self._file.status, STATES[EXIT_FAILED]
        try:
            exit_status = self._run()
            state = STATES[exit_status]
        finally:
            status.state, status.searching = state, None
            if state != "stopped":
                status.eta_s = None
            self._file.close()
        return exit_status

    def _run(self) -> int:
        self._tune()
        settings = found_settings(self._compare)
        specs = self._loaded.run_specs(settings)
        outcome = self._train(specs, settings)
        write_outcome(outcome)
        print_now(outcome.table)
        return self._publish(outcome)

    def _trackers(self, tags: dict[str, str]) -> RunTrackers:
        classes = read_classes(self._compare.compare_path)
        return RunTrackers(self._uri, tags, self._parent, classes)

    def _tune(self) -> None:
        """Run the searches, one after the other, until the comparison is stopped."""
        for variant, sweep in tuned_rows(self._compare).items():
            if self._signals.is_set:
                return
            self._file.status.state, self._file.status.searching = "tuning", variant.label
            self._file.write()
            tags = dict(self._built[variant].tags) | {"search": variant.label}
            trackers = self._trackers(tags)
            try:
                run_search(sweep, self._with_files(sweep.base, variant), trackers, self._cluster)
            finally:
                trackers.close()
        self._file.status.state, self._file.status.searching = "running", None

    def _with_files(self, spec: JobSpec, variant: Variant) -> JobSpec:
        """The spec with the files of weights that were fetched."""
        built = self._built[variant]
        spec = self._loaded.with_paths(spec, variant)
        return spec.model_copy(update={"student": built.student, "teacher": built.teacher})

    def _train(self, specs: dict[RunKey, JobSpec], settings: dict[Variant, Point]) -> Outcome:
        """Train what is left of the runs whose settings are known."""
        compare, records = self._compare, RunRecords(specs)
        if self._signals.is_set:
            return outcome_of(compare, records.read({}, {}), settings)
        jobs = {
            spec.run_path: (key.variant, self._with_files(spec, key.variant))
            for key, spec in specs.items()
            if compare.tuned is None or key.variant in settings
        }
        job_specs = [spec for _, spec in jobs.values()]
        for spec in job_specs:
            forget_rejected(spec)
        progress = CompareProgress(compare, job_specs, records, settings, self._file.status)
        trackers = self._trackers({})
        trials = FixedTrials(
            job_specs,
            trackers,
            lambda spec: self._built[jobs[spec.run_path][0]].tags,
            progress,
            print_now,
        )
        try:
            self._file.write()
            if not trials.are_finished:
                self._cluster.run(trials)
                trials.close()
            if self._signals.is_set:
                # Now: the process may be killed before the page and MLflow have been updated.
                self._file.status.state = "stopped"
                self._file.write()
        finally:
            trackers.close()
        return progress.outcome(trials)

    def _publish(self, outcome: Outcome) -> int:
        compare, is_stopped, address = self._compare, self._signals.is_set, None
        print_now(f"page: {compare.compare_path / PAGE_NAME}")
        may_stop = nullcontext() if is_stopped else self._signals.interruptible()
        with suppress(JobStoppedError), may_stop:
            address = publish_comparison(outcome, self._tags, is_stopped=is_stopped)
        print_now(f"comparison: {address or 'not in MLflow yet'}")
        if is_stopped:
            print_now(
                f"{compare.name} was stopped; submit the same comparison to resume it from "
                f"{compare.compare_path}"
            )
            return EXIT_STOPPED
        return EXIT_DONE if outcome.are_finished else EXIT_FAILED
