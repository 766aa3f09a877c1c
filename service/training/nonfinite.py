"""A step whose loss or gradient is not finite: what is written down, and what is said."""

import contextlib
import json
from pathlib import Path

from data_pipeline.loader import Batch
from service.spec import JobSpec
from service.training.checkpoints import Progress


def dump_name(step: int, rank: int) -> str:
    """Name of the file beside the run with one worker's samples of a step."""
    return f"nonfinite_step{step:010d}_rank{rank}.json"


def dump_samples(
    run_path: Path, rank: int, progress: Progress, batch: Batch, loss: float, gradient_norm: float
) -> None:
    """Keep this worker's samples of the step that failed.

    A disk that does not take them must not hold up the other workers.
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
        (run_path / dump_name(progress.step, rank)).write_text(json.dumps(content) + "\n")


def stop_text(spec: JobSpec, progress: Progress) -> str:
    """What to say of a run that ends so."""
    survived = f", after {progress.skipped} others" if progress.skipped else ""
    return (
        f"training.on_nonfinite: the loss or gradient of step {progress.step} is not "
        f"finite{survived}; no update was made, its samples are in "
        f"nonfinite_step{progress.step:010d}_rank*.json beside the run. Lower "
        "optimizer.learning_rate, set training.max_grad_norm or use precision float32, and give "
        f"the run another name than {spec.name}"
    )
