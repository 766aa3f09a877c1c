"""What a teacher predicts for val: computed once for all runs of a storage path."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from service.run.execution import Execution
from service.run.folder import read_tags
from service.run.predictions import TEACHER_PREDICTIONS_NAME, Predictions, read_predictions
from service.spec.errors import BadInputError
from service.spec.job import JobSpec
from service.training.distributed import World, gather_from_all

FOLDER_NAME = ".teacher_predictions"
"""Folder of the storage path; a file's name is the digest of all that predictions depend on."""


def teacher_predictions(
    spec: JobSpec, execution: Execution, world: World, compute: Callable[[], Predictions]
) -> Predictions:
    """The predictions, which are also written to the run's folder; every rank must call it.

    ``compute``: called on all ranks where no earlier run has stored them.
    """
    path = _stored_path(spec, execution)
    stored = _read(path) if world.rank == 0 and path is not None else None
    found = gather_from_all(stored, world, spec.resources.collective_timeout_s)[0]
    is_new = found is None
    if found is None:
        found = compute()
    if world.rank == 0:
        found.write(spec.run_path / TEACHER_PREDICTIONS_NAME)
        if is_new and path is not None:
            path.parent.mkdir(exist_ok=True)
            found.write(path)
    return found


def _read(path: Path) -> Predictions | None:
    try:
        return read_predictions(path)
    except (BadInputError, OSError):
        # It is computed, and written, again.
        return None


def _stored_path(spec: JobSpec, execution: Execution) -> Path | None:
    """Where the predictions are stored; None where the digests of the inputs are not known."""
    tags = read_tags(spec.run_path)
    digests = {name: digest for name, digest in tags.items() if _is_input(name)}
    if not {"teacher_sha256", "dataset_val_fingerprint"} <= digests.keys():
        return None
    assert spec.teacher is not None
    identity = {
        "digests": digests,
        "teacher": spec.teacher.model_dump(
            mode="json", exclude={"min_top1", "min_top1_images", "cache"}
        ),
        "normalization": spec.dataset.normalization.model_dump(mode="json"),
        "sizes": [spec.evaluation.resize_size, spec.evaluation.crop_size],
        "execution": dataclasses.asdict(execution.teacher),
        "device": "gpu" if spec.resources.gpu else "cpu",
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return spec.checkpoints.storage_path / FOLDER_NAME / f"{key}.safetensors"


def _is_input(tag: str) -> bool:
    is_teacher = tag.startswith("teacher") and tag.endswith("_sha256")
    return is_teacher or tag == "dataset_val_fingerprint"
