"""A run's checkpoints as logged models: each there once, and the newest ones kept."""

import logging
import tempfile
from pathlib import Path

from mlflow.entities import LoggedModel
from torch import nn

from data_pipeline.files import NotRegularError
from service.models.build import load_network
from service.run.folder import STUDENT_NAME
from service.run.journal import Event
from service.run.student_card import read_classes, student_card, write_with_card
from service.run.tracked_checkpoints import copy_waiting
from service.spec.errors import BadInputError
from service.spec.job import JobSpec
from service.tracking.mlflow_run import MlflowRun
from service.tracking.student_model import STEP_TAG, log_model, logged_students

logger = logging.getLogger(__name__)


def log_checkpoint(run: MlflowRun, spec: JobSpec, event: Event, num_newest: int) -> None:
    """Log the student that waits for an event, and delete models beyond the newest.

    However often it is called, and wherever it was interrupted, the model is there once. A file
    that is damaged, or gone without a model, is no error but a warning.

    Raises:
        BadInputError: another file of the run's folder is damaged.
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    logged = {_step(model) for model in logged_students(run, "checkpoint")}
    if event.step not in logged:
        with tempfile.TemporaryDirectory() as folder:
            # A copy: the training removes the oldest file at any time.
            path = Path(folder) / "waiting.safetensors"
            try:
                copy_waiting(spec.run_path, event.step, path)
                student = load_network(path, spec.student.model, spec.dataset.num_classes)
            except (FileNotFoundError, NotRegularError, BadInputError) as error:
                text = "the checkpoint of step %s of %s is not sent to MLflow: %s"
                logger.warning(text, event.step, spec.name, error)
                return
            _log_file(run, spec, student, path, event)
    _delete_old(run, num_newest)


def _log_file(run: MlflowRun, spec: JobSpec, student: nn.Module, path: Path, event: Event) -> None:
    card = student_card(spec, read_classes(spec.run_path), path, run.run_id, event.step)
    weights_path = path.with_name(STUDENT_NAME)
    write_with_card(path, weights_path, card)
    log_model(run, spec, student, weights_path, card, role="checkpoint", evaluation=event)


def _delete_old(run: MlflowRun, num_newest: int) -> None:
    """Delete the checkpoints beyond the newest; a registered one stays."""
    models = sorted(logged_students(run, "checkpoint"), key=_step, reverse=True)
    old = models[num_newest:]
    if not old:
        return
    versions = run.client.search_model_versions(f"run_id = '{run.run_id}'")
    registered = " ".join(f"{version.model_id} {version.source}" for version in versions)
    for model in old:
        if model.model_id not in registered:
            run.client.delete_logged_model(model.model_id)


def _step(model: LoggedModel) -> int:
    return int(model.tags[STEP_TAG])
