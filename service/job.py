"""A job, from spec to result: load, claim the folder, build, launch, publish."""

import contextlib
import logging
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import mlflow
from ray.exceptions import RayActorError
from ray.train import TrainingFailedError, WorkerGroupError

from data_pipeline.files import RETRY_PAUSES_S, is_regular
from data_pipeline.uris import redacted
from service.build import build_job
from service.cluster.address import check_address
from service.cluster.connection import check_cluster, connect
from service.cluster.failures import failure_text, graceful_stop_reason
from service.cluster.launch import run_training
from service.cluster.retries import FAILURES_LIMIT_BYTES
from service.provenance import provenance_tags
from service.publish import try_to_publish
from service.result import IncompleteRunError, collect_result
from service.run.claim import check_inputs, check_resumable, claim_run_folder, forget_rejected
from service.run.control import (
    GracefulStop,
    clear_abort,
    clear_request,
    is_aborted,
    pending_request,
    read_abort_reason,
    request_stop,
)
from service.run.durations import recorded_submission
from service.run.folder import PAGE_NAME, read_tags, write_spec, write_tags
from service.run.journal import FAILURES_NAME, Journal
from service.run.report import ProgressPrinter
from service.run.result import RunResult, read_result
from service.run.status import State, write_stopped
from service.run.stop_signals import JobStoppedError, StopSignals
from service.run.student_card import write_classes
from service.spec.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from service.spec.image_warnings import small_image_warnings
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob
from service.spec.overlap import overlap_warnings
from service.spec.teacher_classes import classes_tags, with_resolved_classes
from service.tracking.destination import publication_key
from service.tracking.job_check import check_tracking
from service.tracking.mlflow_run import RUN_STATUSES, TRACKING_ERRORS, MlflowRun, tracking_uri
from service.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

SCRIPT = "jobs/distill.py"

Result = TypeVar("Result")


class UnfinishedRun(NamedTuple):
    """How a job ends that has no result; ``cause``: what else must be said, if no event says it."""

    state: State
    text: str
    exit_status: int
    cause: str = ""


def run_job(job: LoadedJob) -> int:
    """Run a job to its end and return the exit status.

    Raises:
        BadInputError: before any training, where the spec, its files or the cluster do not fit.
    """
    spec, uri = job.spec, tracking_uri(job.spec)
    mlflow.set_tracking_uri(uri)
    signals = StopSignals()
    with signals.installed(), claim_run_folder(spec):
        check_resumable(job)
        result = read_result(spec.run_path)
        if result is None:
            with recorded_submission(spec.run_path):
                return _train_and_publish(job, signals)
        print(f"{spec.name} is finished already; nothing to train", flush=True)
        write_spec(spec)
        if result.published_as == publication_key(spec, uri):
            print(result.summary)
            _print_page(spec.run_path / PAGE_NAME)
            return EXIT_DONE
        tracker = Tracker(spec, uri, read_tags(spec.run_path), ProgressPrinter(spec))
        return _publish(result, spec, tracker.close("finished"), signals)


def _train_and_publish(job: LoadedJob, signals: StopSignals) -> int:
    """Build, launch and publish, in a folder that this job holds."""
    spec = job.spec
    try:
        tags, trained_spec = prepare_job(job, signals)
    except JobStoppedError:
        write_stopped(spec.run_path)
        print(f"{spec.name} was stopped; submit the same spec to resume it", flush=True)
        return EXIT_STOPPED
    forget_rejected(spec)
    write_spec(spec)
    write_tags(spec.run_path, tags)
    write_classes(spec.run_path, job.classes)
    printer = ProgressPrinter(spec)
    tracker = Tracker(spec, tracking_uri(spec), tags, printer)
    outcome = launched(trained_spec, signals, _train)
    if isinstance(outcome, RunResult):
        return _publish(outcome, spec, tracker.close("finished"), signals)
    _end_mlflow_run(tracker.close(outcome.state), outcome.state)
    # An abort and a failure are also events; where none could be written, they are printed here.
    for text in (outcome.cause, outcome.text):
        if text not in printer.last_note:
            print(text, flush=True)
    # Last: a job that is stopped may be killed soon.
    _print_page(_write_page(spec))
    return outcome.exit_status


def prepare_job(job: LoadedJob, signals: StopSignals) -> tuple[dict[str, str], JobSpec]:
    """Check and build what the run needs; its tags, and the spec that the workers get.

    Raises:
        BadInputError: something does not fit.
        JobStoppedError: a signal arrived.
    """
    spec = job.spec
    # Before weights are fetched.
    check_address()
    signals.check()
    check_tracking(job)
    with signals.interruptible():
        built = build_job(spec)
    trained_spec = with_resolved_classes(built.spec, job.classes)
    digests = {**built.digests, **classes_tags(trained_spec)}
    check_inputs(spec, digests)
    signals.check()
    connect()
    signals.install()
    check_cluster(spec.resources)
    warnings = small_image_warnings(spec, job.train, job.val)
    for warning in [*warnings, *overlap_warnings(spec.dataset, spec.dataset.held_out)]:
        print(f"warning: {warning}", flush=True)
    tags = provenance_tags(job, digests, SCRIPT)
    signals.check()
    return tags, trained_spec


def launched(
    spec: JobSpec, signals: StopSignals, act: Callable[[JobSpec], Result | None]
) -> Result | UnfinishedRun:
    """What ``act`` returns, which runs workers; or why there is nothing.

    ``act`` returns None where the workers have aborted the run.
    """
    clear_request(spec.run_path, "stop")
    clear_request(spec.run_path, "resize")
    failure: Exception | None = None
    try:
        clear_abort(spec.run_path)
        # The workers save a checkpoint and exit.
        with signals.on_first_signal(lambda: _request_stop(spec)):
            result = act(spec)
        if result is not None:
            return result
    except (TrainingFailedError, RayActorError, GracefulStop) as error:
        failure = error
    except Exception as error:
        logger.exception("the job failed")
        failure = error
    return _unfinished(spec, failure)


def _train(spec: JobSpec) -> RunResult | None:
    """Train to the end and collect the result; None if the run was aborted.

    What workers on other nodes have written may take a while to be visible here.
    """
    run_training(spec)
    for pause_s in (*RETRY_PAUSES_S, None):
        if is_aborted(spec.run_path):
            return None
        try:
            return collect_result(spec.run_path, spec.schedule.num_epochs)
        except (IncompleteRunError, OSError):
            if pause_s is None:
                raise
            time.sleep(pause_s)
    raise AssertionError("the last attempt returns or raises")


def _unfinished(spec: JobSpec, failure: Exception | None) -> UnfinishedRun:
    with contextlib.suppress(OSError):
        reason = read_abort_reason(spec.run_path)
        if reason is not None:
            Journal(spec.run_path / FAILURES_NAME, FAILURES_LIMIT_BYTES).note(reason.text)
            return UnfinishedRun("failed", "", reason.exit_status, reason.text)
    resume = f"submit the same spec to resume from the last checkpoint in {spec.run_path}"
    # Workers that failed instead of stopping gracefully have not saved.
    is_saved = not isinstance(failure, WorkerGroupError) or (
        graceful_stop_reason(failure) is not None
    )
    if pending_request(spec.run_path) == "stop" and is_saved:
        clear_request(spec.run_path, "stop")
        return UnfinishedRun("stopped", f"{spec.name} was stopped; {resume}", EXIT_STOPPED)
    cause = str(failure)
    if isinstance(failure, TrainingFailedError | RayActorError):
        cause = failure_text(failure, spec.run_path)
    return UnfinishedRun("failed", f"{spec.name} failed; {resume}", EXIT_FAILED, redacted(cause))


def _request_stop(spec: JobSpec) -> None:
    try:
        request_stop(spec.run_path)
    except OSError as error:
        print(f"the stop request cannot be written: {error}", flush=True)


def _publish(result: RunResult, spec: JobSpec, run: MlflowRun | None, signals: StopSignals) -> int:
    """Publish the result if MLflow answers and no signal arrives; the job is done in any case."""
    page_path = _write_page(spec)
    if run is not None:
        with contextlib.suppress(JobStoppedError), signals.interruptible():
            try_to_publish(result, spec, run)
    print(result.summary, flush=True)
    _print_page(page_path)
    if not result.is_published:
        print(
            f"MLflow at {redacted(tracking_uri(spec))} does not have everything; python "
            f"jobs/sync.py {shlex.quote(str(spec.run_path))} sends the rest when it is back",
            flush=True,
        )
    return EXIT_DONE


def _write_page(spec: JobSpec) -> Path | None:
    # Imported late: the libraries of the pictures would delay the first step.
    from service.run_page.page import write_run_page

    return write_run_page(spec, spec.run_path)


def _print_page(path: Path | None) -> None:
    if path is not None and is_regular(path):
        print(f"page: {path}", flush=True)


def _end_mlflow_run(run: MlflowRun | None, state: State) -> None:
    if run is None:
        return
    try:
        run.end(RUN_STATUSES[state])
    except TRACKING_ERRORS as error:
        logger.warning("MLflow did not accept the run's state %s: %s", state, error)
