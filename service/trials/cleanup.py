"""Removes the checkpoints of runs that have ended; their results stay."""

import shutil
from pathlib import Path

from service.training.checkpoint import checkpoint_paths
from service.trials.open_runs import is_open


class CheckpointCleanup:
    """Removes checkpoints as soon as no process trains the run any more."""

    def __init__(self) -> None:
        self._pending: list[Path] = []

    def add(self, run_path: Path) -> None:
        """Remove the checkpoints of a run that has ended, and what could not be removed before."""
        self._pending.append(run_path)
        for path in [path for path in self._pending if not is_open(path)]:
            remove_checkpoints(path)
            self._pending.remove(path)

    def close(self) -> None:
        """Remove what is left; no process trains any more."""
        for path in self._pending:
            remove_checkpoints(path)


def remove_checkpoints(run_path: Path) -> None:
    """Remove the checkpoints of a run that has ended, as far as the storage allows."""
    for path in checkpoint_paths(run_path):
        shutil.rmtree(path, ignore_errors=True)
