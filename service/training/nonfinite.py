"""What is not finite: a step, whose samples are dumped, or logits; and the messages about it."""

import contextlib
import json
from pathlib import Path

from data_pipeline.files import write_atomically
from service.run.progress import Progress
from service.spec.job import JobSpec
from service.spec.networks import teacher_networks
from service.training.outcome import Outcome


def dump_name(step: int, rank: int) -> str:
    """Name of the file in the run's folder with one worker's samples of a step."""
    return f"nonfinite_step{step:010d}_rank{rank}.json"


def dump_samples(run_path: Path, rank: int, outcome: Outcome) -> None:
    """Write this worker's samples of the step to the run's folder.

    Where the disk fails they are not written: the other workers must not wait.
    """
    progress, batch, _ = outcome.step
    content = {
        "step": progress.step,
        "epoch": progress.epoch,
        "loss": str(outcome.loss),
        "gradient_norm": str(outcome.gradient_norm),
        "samples": batch.indices.tolist(),
        "labels": batch.labels.tolist(),
    }
    with contextlib.suppress(OSError):
        write_atomically(run_path / dump_name(progress.step, rank), json.dumps(content) + "\n")


def teacher_text(spec: JobSpec, num_nonfinite: int, num_images: int) -> str:
    """The message of a run that ends because the teacher's logits are not finite."""
    networks = list(teacher_networks(spec.teacher).values())
    sources = " or ".join(network.weights.source for network in networks)
    models = " or ".join(network.model for network in networks)
    may_round = spec.training.precision != "float32"
    other_precision = ", or use precision float32" if may_round else ""
    return (
        f"teacher.weights.source: the teacher's logits are not finite for {num_nonfinite} of "
        f"{num_images} images; {sources} has values that are not finite, or "
        f"does not fit {models}: give other weights{other_precision}"
    )


def student_text(spec: JobSpec, progress: Progress) -> str:
    """The message of a run that ends because its student is not usable."""
    return (
        f"{spec.name} failed: the logits of the trained student are not finite for "
        f"{progress.last_nonfinite} images of {spec.dataset.evaluated}; it is not published, and "
        "its checkpoint is kept. Lower optimizer.learning_rate, set training.max_grad_norm or use "
        "precision float32, and give the run another name"
    )


def stop_text(spec: JobSpec, progress: Progress) -> str:
    """The message of a run that ends because of it."""
    survived = f", after {progress.skipped} others" if progress.skipped else ""
    return (
        f"training.on_nonfinite: the loss or gradient of step {progress.step} is not "
        f"finite{survived}; no update was made, its samples are in "
        f"nonfinite_step{progress.step:010d}_rank*.json in the run's folder. Lower "
        "optimizer.learning_rate, set training.max_grad_norm or use precision float32, and give "
        f"the run another name than {spec.name}"
    )
