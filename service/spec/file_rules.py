"""Rules about the files and folders that a spec names, on the machine that checks it.

They are written as those of rules.py are.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from service.spec.data_sections import Dataset
from service.spec.errors import Problem
from service.spec.networks import networks_of, required_num_classes
from service.spec.rules import Rule
from service.spec.sections import Checkpoints, Student, is_file_source
from service.spec.teacher_sections import Teacher
from service.spec.weights_metadata import weights_file_problems

SOURCES = "give the path of a weights file, models:/NAME@ALIAS, runs:/ID/PATH or torchvision:ENUM"


def check_weights_files(
    student: Student, teacher: Teacher | None, dataset: Dataset | None = None
) -> Iterator[Problem]:
    """Files of weights that exist, for the model and the dataset's classes."""
    for network_path, network in networks_of(student, teacher).items():
        weights, where = network.weights, f"{network_path}.weights"
        if weights is None or not is_file_source(weights.source):
            continue
        if not Path(weights.source).exists():
            yield Problem(f"{where}.source", f"{weights.source} does not exist", SOURCES)
        else:
            num_classes = required_num_classes(network, dataset)
            yield from weights_file_problems(where, network.model, weights, num_classes)


def check_storage_folder(checkpoints: Checkpoints) -> Iterator[Problem]:
    """A storage path that is, or can become, a folder."""
    existing = _existing(checkpoints.storage_path)
    if not existing.is_dir():
        yield Problem("checkpoints.storage_path", f"{existing} is a file", "give a folder")
    elif not os.access(existing, os.W_OK):
        wrong = f"{existing} cannot be written"
        yield Problem("checkpoints.storage_path", wrong, "give a folder that you may write")


def check_teacher_cache_folder(teacher: Teacher | None) -> Iterator[Problem]:
    """A path of the teacher's stored logits that is, or can become, a folder."""
    path = teacher.cache.path if teacher is not None and teacher.cache is not None else None
    if path is not None and not (existing := _existing(path)).is_dir():
        yield Problem("teacher.cache.path", f"{existing} is a file", "give a folder")


def _existing(path: Path) -> Path:
    """The path, or the nearest of the folders above it that is there."""
    return next((parent for parent in (path, *path.parents) if parent.exists()), Path("/"))


FILE_RULES: tuple[Rule, ...] = (
    check_weights_files,
    check_storage_folder,
    check_teacher_cache_folder,
)
