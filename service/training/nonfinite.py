"""A step whose loss or gradient is not finite: the dump of its samples, and the message."""

import contextlib
import json
from pathlib import Path

from data_pipeline.files import write_atomically
from data_pipeline.loader import Batch
from service.run.progress import Progress
from service.spec.job import JobSpec


def dump_name(step: int, rank: int) -> str:
    """Name of the file in the run's folder with one worker's samples of a step."""
    return f"nonfinite_step{step:010d}_rank{rank}.json"


def dump_samples(
    run_path: Path, rank: int, progress: Progress, batch: Batch, loss: float, gradient_norm: float
) -> None:
    """Write this worker's samples of the step to the run's folder.

    Where the disk fails they are not written: the other workers must not wait.
    """
    content = {
        "step": progress.step,
        "epoch": progress.epoch,
        "loss": str(loss),
        "gradient_norm": str(gradient_norm),
        "samples": batch.indices.tolist(),
        "labels": batch.labels.tolist(),
    }
    with contextlib.suppress(OSError):
        write_atomically(run_path / dump_name(progress.step, rank), json.dumps(content) + "\n")


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
