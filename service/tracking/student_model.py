"""The student as an MLflow model: exported and logged."""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.entities import LoggedModelStatus
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import nn

from service.run.folder import STUDENT_NAME
from service.run.student_card import CARD_NAME, read_classes, student_card
from service.spec.job import JobSpec
from service.tracking.mlflow_run import MlflowRun
from service.tracking.root_logger import root_logger_kept

# With an example of one image the exported batch size would be frozen at one.
EXAMPLE_BATCH_SIZE = 2


def log_student(run: MlflowRun, spec: JobSpec, student: nn.Module, weights_path: Path) -> str:
    """Log the trained student as safetensors and as a pt2 model with a dynamic batch size.

    Returns the URI of the model.

    The model maps normalized float32 images [batch, 3, H, W] to logits [batch, K]. ``student`` has
    the weights of ``weights_path`` and is in evaluation mode. What an interrupted attempt left on
    the server is completed or replaced: there is one of each.

    Raises:
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        (files / STUDENT_NAME).write_bytes(weights_path.read_bytes())
        card = student_card(spec, read_classes(spec.run_path), weights_path, run.run_id)
        (files / CARD_NAME).write_text(json.dumps(card, indent=1) + "\n")
        run.client.log_artifacts(run.run_id, folder, "student")
        return _find_logged(run) or _log_exported(run, spec, student, card, files)


def _find_logged(run: MlflowRun) -> str | None:
    """URI of the run's exported model, if it is complete; incomplete ones are deleted."""
    query = f"source_run_id = '{run.run_id}'"
    for model in run.client.search_logged_models([run.experiment_id], query):
        if model.status == LoggedModelStatus.READY:
            return str(model.model_uri)
        run.client.delete_logged_model(model.model_id)
    return None


def _log_exported(
    run: MlflowRun, spec: JobSpec, student: nn.Module, card: dict[str, Any], files: Path
) -> str:
    size = spec.evaluation.crop_size
    example = np.zeros((EXAMPLE_BATCH_SIZE, 3, size, size), dtype=np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 3, size, size))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, spec.dataset.num_classes))]),
    )
    with warnings.catch_warnings(), root_logger_kept(), mlflow.start_run(run_id=run.run_id):
        warnings.simplefilter("ignore")
        info = mlflow.pytorch.log_model(
            student,
            name="student",
            serialization_format="pt2",
            input_example=example,
            signature=signature,
            # Given, because MLflow would infer them by loading the model in another process.
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", "mlflow"],
            metadata=card,
            # So that the model's URI can be the weights.source of another spec.
            extra_files=[str(files / STUDENT_NAME), str(files / CARD_NAME)],
        )
    return str(info.model_uri)
