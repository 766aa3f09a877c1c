"""A step whose gradient is not finite: what is written down, and what is said."""

import json
from pathlib import Path

from data_pipeline.loader import Batch
from service.spec import JobSpec
from service.training.checkpoints import Progress


def dump_samples(
    run_path: Path, rank: int, progress: Progress, batch: Batch, gradient_norm: float
) -> Path:
    """Keep this worker's samples of the step that failed; where they are."""
    path = run_path / f"nonfinite_step{progress.step:010d}_rank{rank}.json"
    content = {
        "step": progress.step,
        "epoch": progress.epoch,
        "gradient_norm": str(gradient_norm),
        "samples": batch.indices.tolist(),
        "labels": batch.labels.tolist(),
    }
    path.write_text(json.dumps(content) + "\n")
    return path


def stop_text(spec: JobSpec, progress: Progress, dump: Path) -> str:
    """What to say of a run that ends so."""
    skipped = f", after {progress.skipped} skipped" if progress.skipped else ""
    return (
        f"training.on_nonfinite: the gradient of step {progress.step} is not finite{skipped}; no "
        f"update was made, its samples are in {dump.name} beside the run. Lower "
        "optimizer.learning_rate, set training.max_grad_norm or use precision float32, and give "
        f"the run another name than {spec.name}"
    )
