"""The trained student as an MLflow model: exported, with a signature, and registered on request."""

import json
import tempfile
import warnings
from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow.entities import LoggedModelStatus
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from safetensors.torch import load_file

from service.models.build import build_model
from service.spec import JobSpec
from service.tracking.mlflow_run import MlflowRun

# With an example of one image the exported batch size would be frozen at one.
EXAMPLE_BATCH_SIZE = 2
# Of a registered version: the run that it came from.
RUN_TAG = "trained_by_run"


def log_student(run: MlflowRun, spec: JobSpec, weights_path: Path) -> None:
    """Log the trained student as safetensors and as a pt2 model with a dynamic batch.

    The model takes normalised float32 images [batch, 3, H, W] and gives logits [batch, K]. What an
    attempt that was cut off has left on the server is used or replaced: there is one of each.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        (files / "student.safetensors").write_bytes(weights_path.read_bytes())
        (files / "preprocessing.json").write_text(json.dumps(preprocessing(spec), indent=1) + "\n")
        run.client.log_artifacts(run.run_id, folder, "student")
        model_uri = _logged_before(run) or _log_exported(run, spec, files / "student.safetensors")
    name, alias = spec.tracking.register_as, spec.tracking.alias
    if name is not None:
        version = _registered_before(run, name)
        if version is None:
            tags = {RUN_TAG: run.run_id}
            version = str(mlflow.register_model(model_uri, name, tags=tags).version)
        if alias is not None:
            run.client.set_registered_model_alias(name, alias, version)


def _logged_before(run: MlflowRun) -> str | None:
    """URI of the run's exported model, if it is whole; halves are removed."""
    query = f"source_run_id = '{run.run_id}'"
    for model in run.client.search_logged_models([run.experiment_id], query):
        if model.status == LoggedModelStatus.READY:
            return str(model.model_uri)
        run.client.delete_logged_model(model.model_id)
    return None


def _registered_before(run: MlflowRun, name: str) -> str | None:
    """Number of the version that the run's student is already."""
    versions = run.client.search_model_versions(f"name = '{name}'")
    return next((str(v.version) for v in versions if v.tags.get(RUN_TAG) == run.run_id), None)


def preprocessing(spec: JobSpec) -> dict[str, object]:
    """What an image goes through before the student sees it; sizes in pixels."""
    return {
        "resize_shorter_side": spec.evaluation.resize_size,
        "center_crop": spec.evaluation.crop_size,
        "scale": "pixels / 255, RGB",
        **spec.dataset.normalization.model_dump(mode="json"),
    }


def _log_exported(run: MlflowRun, spec: JobSpec, weights_path: Path) -> str:
    student = build_model(spec.student.model, spec.dataset.num_classes)
    student.load_state_dict(load_file(weights_path))
    student.eval()
    size = spec.evaluation.crop_size
    example = np.zeros((EXAMPLE_BATCH_SIZE, 3, size, size), dtype=np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 3, size, size))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, spec.dataset.num_classes))]),
    )
    with warnings.catch_warnings(), mlflow.start_run(run_id=run.run_id):
        warnings.simplefilter("ignore")
        info = mlflow.pytorch.log_model(
            student,
            name="student",
            serialization_format="pt2",
            input_example=example,
            signature=signature,
            # Stated, because MLflow would find it out by loading the model in another process.
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", "mlflow"],
            metadata=preprocessing(spec),
            # So that the model's URI can be the weights.source of another spec.
            extra_files=[str(weights_path)],
        )
    return str(info.model_uri)
