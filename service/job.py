"""A job from spec to result: check, claim, train, publish, tell."""

import json
import logging
import os
import shutil
import time
from dataclasses import asdict

from ray.train import TrainingFailedError

from service.cluster.run_folder import (
    RESULT_NAME,
    claim_run_folder,
    read_result,
    write_atomically,
)
from service.cluster.trainer import check_cluster, connect, run_training
from service.models.build import build_with_weights
from service.problems import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED
from service.provenance import provenance_tags
from service.spec import JobSpec
from service.tracking.mlflow_run import TRACKING_ERRORS, MlflowRun
from service.tracking.report import progress_line, summary_table
from service.tracking.student_model import log_student
from service.tracking.tracker import Tracker
from service.training.checkpoints import (
    STUDENT_NAME,
    Progress,
    final_student_path,
    newest_checkpoint,
    read_metadata,
)
from service.training.refusal import REFUSAL_NAME

logger = logging.getLogger(__name__)


def run_job(spec: JobSpec) -> int:
    """Run ``spec`` to its end and return the exit status.

    Raises:
        BadInputError: before any training, where the spec, its files or the cluster do not fit.
    """
    start_s = time.monotonic()
    tags = check_models(spec)
    claim_run_folder(spec)
    result = read_result(spec.run_path)
    if result is not None and result["published"]:
        print(f"{spec.name} is finished already; nothing to train\n{result['summary']}")
        return EXIT_DONE
    (spec.run_path / REFUSAL_NAME).unlink(missing_ok=True)
    if result is None:
        connect()
        check_cluster(spec)
    tracker = Tracker(
        spec, tracking_uri(spec), tags, lambda event: print(progress_line(event, spec), flush=True)
    )
    if result is None:
        try:
            run_training(spec)
        except TrainingFailedError as error:
            _end_run(tracker.close(), "FAILED")
            print(
                f"{spec.name} failed: {_cause(error)}\nSubmit the same spec to go on from the last "
                f"checkpoint in {spec.run_path}",
                flush=True,
            )
            return EXIT_FAILED
        refusal = spec.run_path / REFUSAL_NAME
        if refusal.exists():
            _end_run(tracker.close(), "FAILED")
            print(json.loads(refusal.read_text())["text"], flush=True)
            return EXIT_BAD_INPUT
    return _publish(spec, tracker.close(), time.monotonic() - start_s)


def tracking_uri(spec: JobSpec) -> str:
    """MLFLOW_TRACKING_URI, the spec's, or SQLite beside the runs."""
    default = f"sqlite:///{spec.checkpoints.storage_path / 'mlflow.db'}"
    return os.environ.get("MLFLOW_TRACKING_URI") or spec.tracking.uri or default


def check_models(spec: JobSpec) -> dict[str, str]:
    """Build both models with their weights, and return the tags that identify the run's inputs.

    Raises:
        BadInputError: before the cluster is touched.
    """
    num_classes = spec.dataset.num_classes
    build_with_weights("student", spec.student.model, num_classes, spec.student.weights)
    teacher = None
    if spec.teacher is not None:
        teacher = build_with_weights(
            "teacher", spec.teacher.model, num_classes, spec.teacher.weights
        )
    return provenance_tags(spec, teacher)


def _publish(spec: JobSpec, run: MlflowRun | None, seconds: float) -> int:
    """Write the result, then give MLflow the student; what fails is made up for on resubmission."""
    checkpoint = newest_checkpoint(spec.run_path)
    assert checkpoint is not None, "a finished run has a checkpoint"
    progress = Progress(**read_metadata(checkpoint)["progress"])
    shutil.copyfile(final_student_path(checkpoint), spec.run_path / f".{STUDENT_NAME}.partial")
    (spec.run_path / f".{STUDENT_NAME}.partial").replace(spec.run_path / STUDENT_NAME)
    published = run is not None
    if run is not None:
        try:
            run.send_figures(progress)
            log_student(run, spec, checkpoint)
            run.end("FINISHED")
        except TRACKING_ERRORS as error:
            logger.warning("MLflow did not take the student: %s", error)
            published = False
    address = run.address if run is not None else "not in MLflow yet"
    summary = summary_table(progress, seconds, address)
    result = {"published": published, "summary": summary, "progress": asdict(progress)}
    write_atomically(spec.run_path / RESULT_NAME, json.dumps(result, indent=1) + "\n")
    print(summary, flush=True)
    if not published:
        print(
            f"MLflow at {tracking_uri(spec)} has not got everything; submit the same spec again to "
            "send the rest, nothing is trained twice",
            flush=True,
        )
        return EXIT_FAILED
    return EXIT_DONE


def _end_run(run: MlflowRun | None, status: str) -> None:
    if run is None:
        return
    try:
        run.end(status)
    except TRACKING_ERRORS as error:
        logger.warning("MLflow was not told that the run %s: %s", status.lower(), error)


def _cause(error: BaseException) -> str:
    """The last line of the innermost error: what a person must know, without the stack."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
