"""Checkpoints written beside training: a copy is taken at once, the disk has its time.

A save that fails is tried again with growing pauses; training learns of it when the next one is
due, or at the end.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.patience import PAUSES_S, patiently
from service.files import SupersededError, WriterToken
from service.tracking.journal import Journal
from service.training.checkpoints import (
    Snapshot,
    checkpoint_name,
    checkpoint_paths,
    remove_checkpoint,
    save_checkpoint,
)


class CheckpointError(RuntimeError):
    """The run's state cannot be saved; the message says where and why."""


class CheckpointSaver:
    """Writes one snapshot at a time on a thread of its own; call ``wait`` for the last.

    Each is told in the journal when it is whole. Only the newest writer of a run's folder may.
    """

    def __init__(
        self,
        run_path: Path,
        spec_hash: str,
        num_to_keep: int,
        journal: Journal,
        token: WriterToken,
        pauses_s: Sequence[float] = PAUSES_S,
    ):
        self._run_path, self._spec_hash = run_path, spec_hash
        self._journal, self._token = journal, token
        self._num_to_keep, self._pauses_s = num_to_keep, pauses_s
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write; waits first for the one before.

        Raises:
            CheckpointError: that one could not be written.
            SupersededError: another worker has taken over the run.
        """
        self.wait()
        self._thread = threading.Thread(target=self._save, args=(snapshot,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            CheckpointError: the last snapshot could not be written.
            SupersededError: another worker has taken over the run.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if isinstance(error, SupersededError):
            raise error
        if error is not None:
            cause = error.strerror if isinstance(error, OSError) else None
            raise CheckpointError(
                f"no checkpoint can be written to {self._run_path} ({cause or error}); "
                "make room or mend the storage, then submit the same spec again"
            ) from error

    def _save(self, snapshot: Snapshot) -> None:
        progress = snapshot.progress
        name = checkpoint_name(progress.step, is_evaluated=snapshot.is_evaluated)

        def write() -> None:
            self._token.check()
            # What the checkpoint goes on from must outlive what it outlives.
            self._journal.sync()
            path = self._run_path / name
            save_checkpoint(path, self._spec_hash, snapshot, self._token.check)
            self._remove_old()

        try:
            patiently(write, self._pauses_s)
            self._journal.append("checkpoint", progress.step, progress.epoch, {})
        except Exception as error:
            # Told to whoever waits for this thread, whatever it is.
            self._error = error

    def _remove_old(self) -> None:
        for path in checkpoint_paths(self._run_path)[self._num_to_keep :]:
            remove_checkpoint(path)
