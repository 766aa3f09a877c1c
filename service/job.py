"""A job from spec to result: check, claim, train, publish, tell."""

import contextlib
import json
import logging
import signal
import time
from typing import NamedTuple

import mlflow
from ray.train import TrainingFailedError, WorkerGroupError
from safetensors.torch import save_file
from torch import nn

from data_pipeline.patience import PAUSES_S
from service.cluster.policies import FAILURES_LIMIT_BYTES, failure_text, leaving_reason
from service.cluster.run_folder import TAGS_NAME, claimed_run_folder
from service.cluster.trainer import check_cluster, connect, run_training
from service.files import write_atomically
from service.models.build import build_with_weights
from service.plan import check_sizes
from service.problems import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from service.provenance import provenance_tags
from service.result import IncompleteRunError, RunResult, collect_result, publish, read_result
from service.spec import JobSpec
from service.spec_rules import is_file_source
from service.spec_sections import Weights
from service.tracking.journal import FAILURES_NAME, Journal
from service.tracking.mlflow_run import RUN_ENDS, TRACKING_ERRORS, MlflowRun, tracking_uri
from service.tracking.report import ProgressPrinter
from service.tracking.status import State
from service.tracking.tracker import Tracker
from service.training.checkpoints import plain_state
from service.training.leaving import ask_to_leave, asked_to_leave, forget_request
from service.training.refusal import REFUSAL_NAME

logger = logging.getLogger(__name__)

NUM_PUBLISH_TRIES = 3


def run_job(spec: JobSpec) -> int:
    """Run ``spec`` to its end and return the exit status.

    Raises:
        BadInputError: before any training, where the spec, its files or the cluster do not fit.
    """
    start_s = time.monotonic()
    mlflow.set_tracking_uri(tracking_uri(spec))
    check_sizes(spec)
    models = build_models(with_fetched_weights(spec))
    tags = provenance_tags(spec, models.get("teacher"))
    with claimed_run_folder(spec):
        return _run_claimed(spec, models, tags, start_s)


def _run_claimed(
    spec: JobSpec, models: dict[str, nn.Module], tags: dict[str, str], start_s: float
) -> int:
    """The run itself, in a folder that is this job's alone."""
    result = read_result(spec.run_path)
    if result is not None:
        print(f"{spec.name} is finished already; nothing to train", flush=True)
        if result.is_published:
            print(result.summary)
            return EXIT_DONE
    write_atomically(spec.run_path / TAGS_NAME, json.dumps(tags, indent=1) + "\n")
    if result is None:
        connect()
        check_cluster(spec)
    tracker = Tracker(spec, tracking_uri(spec), tags, ProgressPrinter(spec))
    if result is None:
        outcome = _train(spec, models, start_s)
        if not isinstance(outcome, RunResult):
            _end_run(tracker.close(outcome.state), outcome.state)
            print(outcome.text, flush=True)
            return outcome.exit_status
        result = outcome
    return _publish(result, spec, tracker.close("finished"))


class Ending(NamedTuple):
    """How a job ends that did not come to a result."""

    state: State
    text: str
    exit_status: int


def _train(spec: JobSpec, models: dict[str, nn.Module], start_s: float) -> RunResult | Ending:
    """Train to the end, and take the result; or say why it did not come to that."""
    forget_request(spec.run_path, "stop")
    forget_request(spec.run_path, "resize")
    # Whoever ends this process gets a checkpoint first, if there is time for one.
    handler = signal.signal(signal.SIGTERM, lambda *_: _ask_to_stop(spec))
    failure: Exception | None = None
    try:
        (spec.run_path / REFUSAL_NAME).unlink(missing_ok=True)
        run_training(with_local_weights(spec, models))
        result = _complete_result(spec, start_s)
        if result is not None:
            return result
    except TrainingFailedError as error:
        failure = error
    except Exception as error:
        logger.exception("the job broke off")
        failure = error
    finally:
        signal.signal(signal.SIGTERM, handler)
    return _ending(spec, failure)


def _complete_result(spec: JobSpec, start_s: float) -> RunResult | None:
    """The result, unless the run was refused.

    What workers on other nodes have written may take a while to be seen here.
    """
    for pause_s in (*PAUSES_S, None):
        if (spec.run_path / REFUSAL_NAME).exists():
            return None
        try:
            return collect_result(spec, time.monotonic() - start_s)
        except (IncompleteRunError, OSError):
            if pause_s is None:
                raise
            time.sleep(pause_s)
    raise AssertionError("the last attempt returns or raises")


def _ending(spec: JobSpec, failure: Exception | None) -> Ending:
    refusal = spec.run_path / REFUSAL_NAME
    with contextlib.suppress(OSError):
        if refusal.exists():
            reason = json.loads(refusal.read_text())
            Journal(spec.run_path / FAILURES_NAME, FAILURES_LIMIT_BYTES).note(reason["text"])
            return Ending("failed", reason["text"], int(reason["exit_status"]))
    again = f"submit the same spec to go on from the last checkpoint in {spec.run_path}"
    # Workers that failed while they should have saved have not saved.
    is_saved = not isinstance(failure, WorkerGroupError) or leaving_reason(failure) is not None
    if asked_to_leave(spec.run_path) == "stop" and is_saved:
        forget_request(spec.run_path, "stop")
        return Ending("stopped", f"{spec.name} was stopped; {again}", EXIT_STOPPED)
    cause = failure_text(failure) if isinstance(failure, TrainingFailedError) else str(failure)
    return Ending("failed", f"{spec.name} failed: {cause}\n{again}", EXIT_FAILED)


def _ask_to_stop(spec: JobSpec) -> None:
    try:
        ask_to_leave(spec.run_path, "stop")
    except OSError as error:
        print(f"the workers cannot be asked to save: {error}", flush=True)


def build_models(spec: JobSpec) -> dict[str, nn.Module]:
    """Build student and teacher with their weights, by role.

    Raises:
        BadInputError: a model or weights that cannot be used, before the cluster is touched.
    """
    sections = {"student": spec.student, "teacher": spec.teacher}
    return {
        role: build_with_weights(role, section.model, spec.dataset.num_classes, section.weights)
        for role, section in sections.items()
        if section is not None
    }


def with_local_weights(spec: JobSpec, models: dict[str, nn.Module]) -> JobSpec:
    """The spec with weights that came over the network replaced by files in the run's folder.

    They are fetched once, by the driver, which has the credentials; workers read the file.
    """
    for role, model in models.items():
        section = getattr(spec, role)
        path = spec.run_path / f"{role}_weights.safetensors"
        if section.weights is None or is_file_source(section.weights.source) or path.exists():
            continue
        partial_path = path.with_name(f".{path.name}.partial")
        save_file(plain_state(model), partial_path)
        partial_path.replace(path)
    return with_fetched_weights(spec)


def with_fetched_weights(spec: JobSpec) -> JobSpec:
    """The spec with weights that an earlier submission fetched; their source may be away."""
    changes: dict[str, object] = {}
    for role in ("student", "teacher"):
        section = getattr(spec, role)
        path = spec.run_path / f"{role}_weights.safetensors"
        if section is None or section.weights is None or is_file_source(section.weights.source):
            continue
        if path.exists():
            changes[role] = section.model_copy(update={"weights": Weights(source=str(path))})
    return spec.model_copy(update=changes)


def _publish(result: RunResult, spec: JobSpec, run: MlflowRun | None) -> int:
    """Give MLflow what is left, if it is there; training is done in any case."""
    # What was begun is gone on with, so that a dropped connection costs little.
    for _ in range(NUM_PUBLISH_TRIES if run is not None else 0):
        assert run is not None
        try:
            publish(result, spec, run)
            break
        except Exception as error:
            # Whatever it is, the student is trained, and can be sent later.
            logger.warning("MLflow did not take the student: %s", error)
    print(result.summary, flush=True)
    if not result.is_published:
        print(
            f"MLflow at {tracking_uri(spec)} has not got everything; python jobs/sync.py "
            f"{spec.run_path} sends the rest when it is back",
            flush=True,
        )
    return EXIT_DONE


def _end_run(run: MlflowRun | None, state: State) -> None:
    if run is None:
        return
    try:
        run.end(RUN_ENDS[state])
    except TRACKING_ERRORS as error:
        logger.warning("MLflow was not told that the run %s: %s", state, error)
