"""A run that must not go on says why beside itself; every worker then ends without an error."""

import json
from typing import NoReturn

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
        (spec.run_path / REFUSAL_NAME).write_text(
            json.dumps({"text": text, "exit_status": exit_status}) + "\n"
        )
    raise RefusedError(text)


def teacher_fault(spec: JobSpec, accuracy: Accuracy) -> str:
    """What to say of a teacher that is worse than the spec allows."""
    assert spec.teacher is not None
    return (
        f"teacher.min_top1: the teacher's top-1 is {accuracy.top1:.4f} on {accuracy.num_images} "
        f"val images, below {spec.teacher.min_top1}; check that its classes are in the dataset's "
        "order, that teacher.normalization is the one it was trained with, and that "
        "evaluation.resize_size and crop_size suit it"
    )
