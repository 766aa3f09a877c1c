"""Collects the result of a run whose training has ended, from its last checkpoint."""

import time
from pathlib import Path

from data_pipeline.files import atomic_path
from service.run.durations import durations
from service.run.folder import STUDENT_NAME, read_spec
from service.run.progress import Progress
from service.run.result import RunResult
from service.run.student_card import read_classes, student_card, write_with_card
from service.training.checkpoint import (
    final_student_path,
    newest_checkpoint,
    read_metadata,
)


class IncompleteRunError(RuntimeError):
    """The workers ended, but the newest checkpoint is not that of a finished, usable student."""


def collect_result(run_path: Path, num_epochs: int) -> RunResult:
    """Copy the student from the checkpoint of the last epoch, and write the result.

    Raises:
        IncompleteRunError: there is no checkpoint after ``num_epochs`` epochs, or its student's
            logits are not finite.
        OSError: the storage fails.
    """
    checkpoint = newest_checkpoint(run_path)
    progress = Progress()
    if checkpoint is not None:
        progress = read_metadata(checkpoint).progress
    if checkpoint is None or progress.epoch != num_epochs:
        raise IncompleteRunError(
            f"the newest checkpoint in {run_path} is of epoch {progress.epoch}, not of the last, "
            f"{num_epochs}"
        )
    if progress.last_nonfinite:
        raise IncompleteRunError(f"the logits of the student in {checkpoint} are not finite")
    spec = read_spec(run_path)
    with atomic_path(run_path / STUDENT_NAME) as partial_path:
        weights_path = final_student_path(checkpoint)
        card = student_card(spec, read_classes(run_path), weights_path)
        write_with_card(weights_path, partial_path, card)
    evaluated, now_ms = spec.dataset.evaluated, int(time.time() * 1000)
    result = RunResult(progress, evaluated, *durations(run_path), time_ms=now_ms)
    result.write(run_path)
    return result
