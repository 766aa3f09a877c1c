"""Checkpoints written beside training: a copy is taken at once, the disk has its time.

A save that fails is tried again with growing pauses; training learns of it when the next one is
due, or at the end.
"""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from service.training.checkpoints import (
    Snapshot,
    checkpoint_name,
    checkpoint_paths,
    remove_checkpoint,
    save_checkpoint,
)

PAUSES_S = (1.0, 5.0, 25.0)


class CheckpointError(RuntimeError):
    """The run's state cannot be saved; the message says where and why."""


class CheckpointSaver:
    """Writes one snapshot at a time on a thread of its own; close it to wait for the last."""

    def __init__(
        self,
        run_path: Path,
        spec_hash: str,
        num_to_keep: int,
        pauses_s: Sequence[float] = PAUSES_S,
    ):
        self._run_path, self._spec_hash = run_path, spec_hash
        self._num_to_keep, self._pauses_s = num_to_keep, pauses_s
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write; waits first for the one before.

        Raises:
            CheckpointError: that one could not be written.
        """
        self.wait()
        self._thread = threading.Thread(target=self._save, args=(snapshot,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            CheckpointError: the last snapshot could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise CheckpointError(
                f"no checkpoint can be written to {self._run_path} ({error.strerror}); make room "
                "or mend the storage, then submit the same spec again"
            ) from error

    def _save(self, snapshot: Snapshot) -> None:
        path = self._run_path / checkpoint_name(snapshot.progress.step)
        for pause_s in (*self._pauses_s, None):
            try:
                save_checkpoint(path, self._spec_hash, snapshot)
                self._remove_old()
            except OSError as error:
                if pause_s is None:
                    self._error = error
                    return
                time.sleep(pause_s)
            else:
                return

    def _remove_old(self) -> None:
        for path in checkpoint_paths(self._run_path)[self._num_to_keep :]:
            remove_checkpoint(path)
