"""A run that must not start says why beside itself; every worker then ends without an error."""

import json

from service.spec import JobSpec
from service.training.evaluation import Accuracy

REFUSAL_NAME = "refusal.json"


def refuse_teacher(spec: JobSpec, accuracy: Accuracy) -> None:
    """Say beside the run why it did not start."""
    assert spec.teacher is not None
    text = (
        f"teacher.min_top1: the teacher's top-1 is {accuracy.top1:.4f} on {accuracy.num_images} "
        f"val images, below {spec.teacher.min_top1}; check that its classes are in the dataset's "
        "order, that teacher.normalization is the one it was trained with, and that "
        "evaluation.resize_size and crop_size suit it"
    )
    (spec.run_path / REFUSAL_NAME).write_text(json.dumps({"text": text}) + "\n")
