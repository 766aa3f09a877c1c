"""Builds a job's models in the driver, before the cluster is used, to verify names and weights.

Weights that come over the network are fetched once, by the driver, which has the credentials, and
stored in the run's folder, where the workers and later submissions read them.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from data_pipeline.files import atomic_path, sha256_of
from service.models.build import build_with_weights, check_image_sizes
from service.models.weights import save_weights
from service.run.folder import has_spec
from service.spec.job import JobSpec
from service.spec.sections import Weights, is_file_source, is_mlflow_source
from service.tracking.student_model import download_weights
from service.training.checkpoint import cpu_state_dict


class BuiltJob(NamedTuple):
    """``spec``: with every weights source a file. ``teacher_sha256``: digest of that file."""

    spec: JobSpec
    teacher_sha256: str | None


def build_job(spec: JobSpec) -> BuiltJob:
    """Verify that models, weights and image sizes fit; needs the run's folder.

    Raises:
        BadInputError: a model or weights that cannot be used.
    """
    changes: dict[str, object] = {}
    teacher_sha256 = None
    for role in ("student", "teacher"):
        section = getattr(spec, role)
        if section is None:
            continue
        weights = _build_and_check(spec, role, section.model, section.weights)
        if weights is not None:
            changes[role] = section.model_copy(update={"weights": weights})
            if role == "teacher":
                teacher_sha256 = sha256_of(Path(weights.source))
    return BuiltJob(spec.model_copy(update=changes), teacher_sha256)


def _build_and_check(
    spec: JobSpec, role: str, name: str, weights: Weights | None
) -> Weights | None:
    """Build one model; its weights as a file."""
    num_classes = spec.dataset.num_classes
    stored_path = spec.run_path / f"{role}_weights.safetensors"
    is_fetched = weights is not None and not is_file_source(weights.source)
    if is_fetched and stored_path.exists() and has_spec(spec.run_path):
        # An earlier submission of this spec fetched them; their source may be gone.
        weights, is_fetched = Weights(source=str(stored_path)), False
    with tempfile.TemporaryDirectory() as folder:
        local = weights
        if weights is not None and is_mlflow_source(weights.source):
            path = download_weights(weights.source, folder, f"{role}.weights.source")
            local = weights.model_copy(update={"source": str(path)})
        model = build_with_weights(role, name, num_classes, local)
    if is_fetched:
        _store(model, stored_path)
        weights = Weights(source=str(stored_path))
    # Only the shapes are needed from here on.
    check_image_sizes(role, name, model.to("meta"), num_classes, spec.image_sizes)
    return weights


def _store(model: nn.Module, path: Path) -> None:
    with torch.no_grad(), atomic_path(path) as partial_path:
        save_weights(cpu_state_dict(model), partial_path)
