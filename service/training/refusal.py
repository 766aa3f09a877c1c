"""A run that must not go on says why beside itself, and is not tried again."""

import json
from typing import NoReturn

from data_pipeline.patience import patiently
from service.files import write_atomically
from service.problems import EXIT_BAD_INPUT
from service.spec import JobSpec
from service.training.evaluation import Accuracy

REFUSAL_NAME = "refusal.json"


class RefusedError(Exception):
    """Ends a worker whose run was refused; all ranks raise it together."""


def refuse(spec: JobSpec, rank: int, text: str, exit_status: int = EXIT_BAD_INPUT) -> NoReturn:
    """Rank 0 leaves the reason beside the run, and the status that the job ends with.

    Raises:
        RefusedError: always, on every rank.
    """
    if rank == 0:
        leave_reason(spec, text, exit_status)
    raise RefusedError(text)


def leave_reason(spec: JobSpec, text: str, exit_status: int) -> None:
    """Say why the run must end; a worker that fails alone does so before it raises its error."""
    content = json.dumps({"text": text, "exit_status": exit_status}) + "\n"
    patiently(lambda: write_atomically(spec.run_path / REFUSAL_NAME, content))


def teacher_fault(spec: JobSpec, accuracy: Accuracy) -> str:
    """What to say of a teacher that is worse than the spec allows."""
    assert spec.teacher is not None
    return (
        f"teacher.min_top1: the teacher's top-1 is {accuracy.top1:.4f} on {accuracy.num_images} "
        f"val images, below {spec.teacher.min_top1}; check that its classes are in the dataset's "
        "order, that teacher.normalization is the one it was trained with, and that "
        "evaluation.resize_size and crop_size suit it"
    )
