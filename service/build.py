"""Builds a job's models in the driver, before the cluster is used, to verify names and weights.

Weights that come over the network are fetched by the driver, which has the credentials, and stored
in the storage path, where the workers and later submissions read them.
"""

import json
import tempfile
from collections.abc import Mapping
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
from service.spec.networks import STUDENT, TEACHER, changed_networks, weights_tag
from service.spec.sections import Student, Weights, is_file_source, is_mlflow_source
from service.spec.teacher_classes import known_classes, own_num_classes
from service.spec.teacher_sections import TeacherNetwork
from service.spec.weights_metadata import read_card
from service.tracking.weights_source import download_weights
from service.training.checkpoint import cpu_state_dict
from service.training.student_checks import check_student

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
    changes: dict[str, dict[str, object]] = {}
    digests = {}
    for path, network in spec.networks().items():
        weights = _build_and_check(spec, path, network)
        if weights is not None:
            changes[path] = {"weights": weights}
            digests[weights_tag(path)] = sha256_of(Path(weights.source))
    changed = changed_networks(spec.student, spec.teacher, changes)
    return BuiltJob(spec.model_copy(update=changed), digests)


def _build_and_check(spec: JobSpec, path: str, network: Student | TeacherNetwork) -> Weights | None:
    """Build one model; its weights as a file."""
    name, weights = network.model, network.weights
    if weights is not None and (stored_path := _fetched_before(spec, path, weights)) is not None:
        weights = Weights(source=str(stored_path))
    metadata: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        local = weights
        if weights is not None and is_mlflow_source(weights.source):
            fetched = download_weights(weights.source, folder, f"{path}.weights.source")
            local = weights.model_copy(update={"source": str(fetched)})
            metadata = _classes_metadata(fetched, name)
        num_classes = _num_classes(spec, path, network, local)
        model = build_with_weights(path, name, num_classes, local, _log, spec.options_of(path))
    if weights is not None and not is_file_source(weights.source):
        stored_path = _store(model, spec.checkpoints.storage_path / WEIGHTS_NAME, metadata)
        weights = Weights(source=str(stored_path))
    check_image_sizes(path, name, model, num_classes, spec.image_sizes_of(path))
    if path == STUDENT:
        check_student(spec, model)
    if path == TEACHER and spec.effective_losses().needs_classifier:
        size = spec.input_size(path, spec.augmentation.size)
        check_classifier(name, model, num_classes, size)
    return weights


def _num_classes(
    spec: JobSpec, path: str, network: Student | TeacherNetwork, local: Weights | None
) -> int:
    """Classes of a network's own classifier, which of weights in MLflow the file says."""
    if isinstance(network, TeacherNetwork) and network.classes is not None and local is not None:
        network = network.model_copy(update={"weights": local})
        return own_num_classes(path, network, known_classes(network))
    return spec.num_classes_of(path)


def _classes_metadata(path: Path, name: str) -> dict[str, str]:
    """What a student's file says about its classes, for the file that its weights are stored in.

    ``name``: the model that the weights are for.
    """
    if not (card := read_card(path)):
        return {}
    values = {key: json.dumps(card[key]) for key in ("num_classes", "classes", "class_names")}
    return {**values, "architecture": name}


def _log(line: str) -> None:
    print(line, flush=True)


def _fetched_before(spec: JobSpec, network_path: str, weights: Weights) -> Path | None:
    """The file with the weights that an earlier submission of this run fetched, if it started.

    What is at their source may have changed or be gone.
    """
    digest = read_tags(spec.run_path).get(weights_tag(network_path))
    if is_file_source(weights.source) or digest is None or not has_started(spec.run_path):
        return None
    path = spec.checkpoints.storage_path / WEIGHTS_NAME / f"{digest}.safetensors"
    return path if path.is_file() and sha256_of(path) == digest else None


def _store(model: nn.Module, folder: Path, metadata: Mapping[str, str]) -> Path:
    """Save the weights under their digest, once for all runs of a storage path.

    ``metadata``: to be stored in the file, with what the model itself needs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as partial_folder, torch.no_grad():
        partial_path = Path(partial_folder) / "weights.safetensors"
        metadata = {**metadata, **file_metadata(model)}
        save_weights(cpu_state_dict(model), partial_path, metadata)
        sync_to_disk(partial_path)
        path = folder / f"{sha256_of(partial_path)}.safetensors"
        partial_path.replace(path)
    return path
