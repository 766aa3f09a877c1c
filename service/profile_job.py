"""Profiles a job: some of its steps, on its cluster and with its workers, and a table of them.

The steps are those of the job, through the same code, but under a name of their own: the job's
folder is neither read nor written, so a job may be profiled before, while and after it trains.
"""

import logging
import time

import mlflow

from data_pipeline.uris import redacted
from service.cluster.launch import run_training
from service.cluster.worker_process import profile_on_worker
from service.job import UnfinishedRun, launched, prepare_job
from service.run.claim import claim_run_folder
from service.run.folder import write_spec, write_tags
from service.run.journal import JOURNAL_NAME, Journal
from service.run.report import ProgressPrinter
from service.run.stop_signals import JobStoppedError, StopSignals
from service.spec.errors import EXIT_DONE, EXIT_STOPPED
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob
from service.tracking.mlflow_run import (
    RUN_STATUSES,
    TRACKING_ERRORS,
    MlflowRun,
    tracking_uri,
)
from service.tracking.tracker import Tracker
from service.training.profiling.profile import Profile, format_profile
from service.training.profiling.profiler import PROFILE_NAME, TRACE_NAME, read_profile

logger = logging.getLogger(__name__)

PROFILE_TAG = "profile"
MAX_NAME_LENGTH = 70
"""Of the job, in the name of its profile, which has a date too."""


def profile_job(job: LoadedJob) -> int:
    """Profile some steps of a job and return the exit status.

    Raises:
        BadInputError: before any step, where the spec, its files or the cluster do not fit.
    """
    spec = profiled_spec(job.spec)
    mlflow.set_tracking_uri(tracking_uri(spec))
    signals = StopSignals()
    with signals.installed(), claim_run_folder(spec):
        try:
            tags, trained_spec = prepare_job(job._replace(spec=spec), signals)
        except JobStoppedError:
            print(f"the profile of {job.spec.name} was stopped", flush=True)
            return EXIT_STOPPED
        tags |= {PROFILE_TAG: job.spec.name}
        write_spec(spec)
        write_tags(spec.run_path, tags)
        tracker = Tracker(spec, tracking_uri(spec), tags, ProgressPrinter(spec))
        outcome = launched(trained_spec, signals, _profile)
        if isinstance(outcome, UnfinishedRun):
            _end(tracker.close(outcome.state), RUN_STATUSES[outcome.state])
            print(f"the profile of {job.spec.name} {outcome.state}: {outcome.cause}", flush=True)
            return outcome.exit_status
        # The workers have ended: the journal has no other writer.
        journal = Journal(spec.run_path / JOURNAL_NAME, spec.tracking.journal_limit_bytes)
        journal.append("note", 0, 0, outcome.metrics, text=format_profile(outcome))
        run = tracker.close("finished")
        _end(run, "FINISHED", spec)
    print(f"trace, for Perfetto or chrome://tracing: {spec.run_path / TRACE_NAME}", flush=True)
    return EXIT_DONE


def profiled_spec(spec: JobSpec) -> JobSpec:
    """The spec under the name of its profile; nothing is retried, registered or rolled back."""
    name = f"{spec.name[:MAX_NAME_LENGTH]}-profile-{time.strftime('%Y%m%d-%H%M%S')}"
    return spec.model_copy(
        update={
            "name": name,
            "resources": spec.resources.model_copy(update={"max_failures": 0}),
            "training": spec.training.model_copy(update={"on_nonfinite": "stop"}),
            "tracking": spec.tracking.model_copy(update={"register_as": None, "promote": None}),
        }
    )


def _profile(spec: JobSpec) -> Profile | None:
    run_training(spec, profile_on_worker)
    return read_profile(spec.run_path)


def _end(run: MlflowRun | None, status: str, spec: JobSpec | None = None) -> None:
    """End the run in MLflow, with the files of ``spec``'s folder if it is given."""
    if run is None:
        if spec is not None:
            print(f"MLflow does not have the profile; it is in {spec.run_path}", flush=True)
        return
    try:
        if spec is not None:
            for name in (TRACE_NAME, PROFILE_NAME):
                run.client.log_artifact(run.run_id, str(spec.run_path / name))
        run.end(status)
    except TRACKING_ERRORS as error:
        logger.warning("MLflow did not accept all of the profile: %s", redacted(str(error)))
