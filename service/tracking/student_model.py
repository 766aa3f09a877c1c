"""Students as MLflow's logged models: exported as pt2, with their files, step and metrics."""

import json
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import mlflow
import numpy as np
import torch
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import nn

from service.run.folder import STUDENT_NAME, read_tags
from service.run.journal import JOURNAL_NAME, Event, read_events
from service.run.student_card import (
    CARD_NAME,
    MODEL_NAME,
    checkpoint_model_name,
    read_classes,
    student_card,
)
from service.spec.job import JobSpec
from service.tracking.dataset_inputs import evaluated_dataset
from service.tracking.mlflow_run import MlflowRun
from service.tracking.model_card import README_NAME, model_card
from service.tracking.root_logger import root_logger_kept

# With an example of one image the exported batch size would be frozen at one.
EXAMPLE_BATCH_SIZE = 2
# Tags of a logged model: which of the run's students it is, and after how many steps and epochs.
ROLE_TAG, STEP_TAG, EPOCH_TAG = "role", "step", "epoch"
# What MLflow's UI shows as a model's source and user: those of its run.
COPIED_TAGS = ("mlflow.source.", "mlflow.user")

Role = Literal["final", "checkpoint"]
Result = TypeVar("Result")

_EXPORTER = ThreadPoolExecutor(1, thread_name_prefix="export")


def on_export_thread(export: Callable[[], Result]) -> Result:
    """Call ``export`` on the one thread of this process that exports models.

    torch's export is not safe in two threads at a time, and torch 2.11 crashes when it exports
    after a thread that had exported another model has ended.
    """
    return _EXPORTER.submit(export).result()


class LoggedStudent(NamedTuple):
    """URI of a logged model, and its card for people."""

    uri: str
    readme: str


def log_student(
    run: MlflowRun, spec: JobSpec, student: nn.Module, weights_path: Path
) -> LoggedStudent:
    """Log the final student as safetensors and as a pt2 model.

    ``student`` has the weights of ``weights_path`` and is in evaluation mode. What an interrupted
    attempt left on the server is completed or replaced: there is one of each.

    Raises:
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    card = student_card(spec, read_classes(spec.run_path), weights_path, run.run_id)
    last = _last_evaluation(spec.run_path)
    readme = model_card(spec, card, last, read_tags(spec.run_path))
    with tempfile.TemporaryDirectory() as folder:
        _write_files(Path(folder), weights_path, card, readme)
        run.client.log_artifacts(run.run_id, folder, MODEL_NAME)
    if logged := logged_students(run, "final"):
        return LoggedStudent(str(logged[0].model_uri), readme)
    uri = log_model(run, spec, student, weights_path, card, role="final", evaluation=last)
    return LoggedStudent(uri, readme)


def log_model(
    run: MlflowRun,
    spec: JobSpec,
    student: nn.Module,
    weights_path: Path,
    card: dict[str, Any],
    *,
    role: Role,
    evaluation: Event,
) -> str:
    """Log a student as a logged model, READY when all of it is there; returns the model's URI.

    The exported model maps normalized float32 images [batch, 3, H, W] to logits [batch, K].
    ``student`` has the weights of ``weights_path``, which ``card`` describes, and is in evaluation
    mode. ``evaluation``: its step and metrics become the model's; the run has the same points.

    Raises:
        One of TRACKING_ERRORS: the server fails or does not answer; the model stays PENDING.
    """
    client, step = run.client, evaluation.step
    data = client.get_run(run.run_id).data
    tags = {key: value for key, value in data.tags.items() if key.startswith(COPIED_TAGS)}
    tags |= {ROLE_TAG: role, STEP_TAG: str(step), EPOCH_TAG: str(evaluation.epoch)}
    name = MODEL_NAME if role == "final" else checkpoint_model_name(step)
    model = client.create_logged_model(run.experiment_id, name, run.run_id, tags, data.params)
    readme = model_card(spec, card, evaluation, read_tags(spec.run_path))
    with tempfile.TemporaryDirectory() as folder:
        _write_files(Path(folder), weights_path, card, readme)
        exported = Path(folder) / "exported"
        on_export_thread(lambda: _export(model, spec, student, Path(folder), exported))
        client.log_model_artifacts(model.model_id, str(exported))
    client.log_batch(run.run_id, metrics=_metrics_of(model, spec, evaluation))
    client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, step)])
    # Last: a model is READY when nothing of it is missing.
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return str(model.model_uri)


def logged_students(run: MlflowRun, role: Role) -> list[LoggedModel]:
    """The run's complete models of a role; what interrupted attempts left is deleted.

    Raises:
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    query = f"source_run_id = '{run.run_id}' AND tags.{ROLE_TAG} = '{role}'"
    found, token = [], None
    while True:
        page = run.client.search_logged_models([run.experiment_id], query, page_token=token)
        found += page
        token = page.token
        if not token:
            break
    for model in found:
        if model.status != LoggedModelStatus.READY:
            run.client.delete_logged_model(model.model_id)
    return [model for model in found if model.status == LoggedModelStatus.READY]


def _last_evaluation(run_path: Path) -> Event:
    """The event with the final student's metrics; one without where the journal has lost it."""
    events = read_events(run_path / JOURNAL_NAME)
    found = [event for event in events if event.kind == "evaluation"]
    return found[-1] if found else Event("evaluation", 0, 0, 0, {})


def _metrics_of(model: LoggedModel, spec: JobSpec, evaluation: Event) -> list[Metric]:
    """The figures of the evaluated images, linked with the model and with their dataset."""
    group = f"{spec.dataset.evaluated}/"
    dataset = evaluated_dataset(spec, read_tags(spec.run_path))
    return [
        Metric(
            name,
            value,
            evaluation.time_ms,
            evaluation.step,
            model_id=model.model_id,
            dataset_name=dataset.name if dataset is not None else None,
            dataset_digest=dataset.digest if dataset is not None else None,
        )
        for name, value in evaluation.values.items()
        if name.startswith(group)
    ]


def _write_files(folder: Path, weights_path: Path, card: dict[str, Any], readme: str) -> None:
    (folder / STUDENT_NAME).write_bytes(weights_path.read_bytes())
    (folder / CARD_NAME).write_text(json.dumps(card, indent=1) + "\n")
    (folder / README_NAME).write_text(readme, encoding="utf-8")


def _export(
    model: LoggedModel, spec: JobSpec, student: nn.Module, files: Path, exported: Path
) -> None:
    """Write the logged model's folder ``exported``; ``files``: those of ``_write_files``."""
    size = spec.evaluation.crop_size
    example = np.zeros((EXAMPLE_BATCH_SIZE, 3, size, size), dtype=np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 3, size, size))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, spec.dataset.num_classes))]),
    )
    described = Model(
        artifact_path=model.artifact_location,
        run_id=model.source_run_id,
        model_uuid=model.model_id,
        model_id=model.model_id,
    )
    with warnings.catch_warnings(), root_logger_kept():
        warnings.simplefilter("ignore")
        mlflow.pytorch.save_model(
            student,
            exported,
            mlflow_model=described,
            serialization_format="pt2",
            input_example=example,
            signature=signature,
            # Given, because MLflow would infer them by loading the model in another process.
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", "mlflow"],
            metadata=json.loads((files / CARD_NAME).read_text()),
            # So that the model's URI can be the weights.source of another spec.
            extra_files=[str(files / name) for name in (STUDENT_NAME, CARD_NAME, README_NAME)],
        )
