"""A job from spec to result: check, claim, train, publish, tell."""

import json
import logging
import os
import shutil
import time
from dataclasses import asdict

import mlflow
from ray.train import TrainingFailedError
from safetensors.torch import save_file
from torch import nn

from service.cluster.run_folder import (
    RESULT_NAME,
    claimed_run_folder,
    read_result,
    write_atomically,
)
from service.cluster.trainer import check_cluster, connect, run_training
from service.models.build import build_with_weights
from service.plan import check_sizes
from service.problems import EXIT_DONE, EXIT_FAILED
from service.provenance import provenance_tags
from service.spec import JobSpec
from service.spec_rules import is_file_source
from service.spec_sections import Weights
from service.tracking.mlflow_run import TRACKING_ERRORS, MlflowRun
from service.tracking.report import ProgressPrinter, summary_table
from service.tracking.student_model import log_student
from service.tracking.tracker import Tracker
from service.training.checkpoints import (
    STUDENT_NAME,
    Progress,
    final_student_path,
    newest_checkpoint,
    plain_state,
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
    mlflow.set_tracking_uri(tracking_uri(spec))
    check_sizes(spec)
    models = build_models(spec)
    tags = provenance_tags(spec, models.get("teacher"))
    with claimed_run_folder(spec):
        return _run_claimed(spec, models, tags, start_s)


def _run_claimed(
    spec: JobSpec, models: dict[str, nn.Module], tags: dict[str, str], start_s: float
) -> int:
    """The run itself, in a folder that is this job's alone."""
    result = read_result(spec.run_path)
    if result is not None and result["published"]:
        print(f"{spec.name} is finished already; nothing to train\n{result['summary']}")
        return EXIT_DONE
    (spec.run_path / REFUSAL_NAME).unlink(missing_ok=True)
    if result is None:
        connect()
        check_cluster(spec)
    tracker = Tracker(spec, tracking_uri(spec), tags, ProgressPrinter(spec))
    if result is None:
        try:
            run_training(with_local_weights(spec, models))
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
            reason = json.loads(refusal.read_text())
            print(reason["text"], flush=True)
            return int(reason["exit_status"])
    return _publish(spec, tracker.close(), time.monotonic() - start_s)


def tracking_uri(spec: JobSpec) -> str:
    """MLFLOW_TRACKING_URI, the spec's, or SQLite beside the runs."""
    default = f"sqlite:///{spec.checkpoints.storage_path / 'mlflow.db'}"
    return os.environ.get("MLFLOW_TRACKING_URI") or spec.tracking.uri or default


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
    changes: dict[str, object] = {}
    for role, model in models.items():
        section = getattr(spec, role)
        if section.weights is not None and not is_file_source(section.weights.source):
            path = spec.run_path / f"{role}_weights.safetensors"
            save_file(plain_state(model), path)
            changes[role] = section.model_copy(update={"weights": Weights(source=str(path))})
    return spec.model_copy(update=changes)


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
