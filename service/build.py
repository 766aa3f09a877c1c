"""Builds a job's models in the driver, before the cluster is used, to verify names and weights.

Weights that come over the network are fetched by the driver, which has the credentials, and stored
in the storage path, where the workers and later submissions read them.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from data_pipeline.files import sha256_of, sync_to_disk
from service.models.build import build_with_weights, check_image_sizes
from service.models.last_layer import check_classifier
from service.models.weights import file_metadata, save_weights
from service.run.claim import has_started
from service.run.folder import read_tags
from service.spec.job import JobSpec
from service.spec.sections import Weights, is_file_source, is_mlflow_source
from service.tracking.weights_source import download_weights
from service.training.checkpoint import cpu_state_dict

WEIGHTS_NAME = ".weights"
"""Folder of the storage path with fetched weights; a file's name is its digest."""


class BuiltJob(NamedTuple):
    """``spec``: with every weights source a file. ``digests``: of these files, such as
    teacher_sha256.
    """

    spec: JobSpec
    digests: dict[str, str]


def build_job(spec: JobSpec) -> BuiltJob:
    """Verify that models, weights and image sizes fit; needs the run's folder.

    Raises:
        BadInputError: a model or weights that cannot be used.
    """
    changes: dict[str, object] = {}
    digests = {}
    for role in ("student", "teacher"):
        section = getattr(spec, role)
        if section is None:
            continue
        weights = _build_and_check(spec, role, section.model, section.weights)
        if weights is not None:
            changes[role] = section.model_copy(update={"weights": weights})
            digests[f"{role}_sha256"] = sha256_of(Path(weights.source))
    return BuiltJob(spec.model_copy(update=changes), digests)


def _build_and_check(
    spec: JobSpec, role: str, name: str, weights: Weights | None
) -> Weights | None:
    """Build one model; its weights as a file."""
    num_classes = spec.dataset.num_classes
    if weights is not None and (stored_path := _fetched_before(spec, role)) is not None:
        weights = Weights(source=str(stored_path))
    with tempfile.TemporaryDirectory() as folder:
        local = weights
        if weights is not None and is_mlflow_source(weights.source):
            path = download_weights(weights.source, folder, f"{role}.weights.source")
            local = weights.model_copy(update={"source": str(path)})
        model = build_with_weights(role, name, num_classes, local, _log)
    if weights is not None and not is_file_source(weights.source):
        stored_path = _store(model, spec.checkpoints.storage_path / WEIGHTS_NAME)
        weights = Weights(source=str(stored_path))
    # Only the shapes are needed from here on.
    check_image_sizes(role, name, model.to("meta"), num_classes, spec.image_sizes)
    if role == "teacher" and spec.effective_losses().needs_classifier:
        check_classifier(name, model, num_classes, spec.augmentation.size)
    return weights


def _log(line: str) -> None:
    print(line, flush=True)


def _fetched_before(spec: JobSpec, role: str) -> Path | None:
    """The file with the weights that an earlier submission of this run fetched, if it started.

    What is at their source may have changed or be gone.
    """
    weights = getattr(spec, role).weights
    digest = read_tags(spec.run_path).get(f"{role}_sha256")
    if is_file_source(weights.source) or digest is None or not has_started(spec.run_path):
        return None
    path = spec.checkpoints.storage_path / WEIGHTS_NAME / f"{digest}.safetensors"
    return path if path.is_file() and sha256_of(path) == digest else None


def _store(model: nn.Module, folder: Path) -> Path:
    """Save the weights under their digest, once for all runs of a storage path."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as partial_folder, torch.no_grad():
        partial_path = Path(partial_folder) / "weights.safetensors"
        save_weights(cpu_state_dict(model), partial_path, file_metadata(model))
        sync_to_disk(partial_path)
        path = folder / f"{sha256_of(partial_path)}.safetensors"
        partial_path.replace(path)
    return path
