"""Writes checkpoints on a thread, with retries."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from data_pipeline.files import RETRY_PAUSES_S, retry_io
from service.run.folder import FencedError, FencingToken
from service.run.journal import Journal
from service.training.checkpoint import (
    Snapshot,
    checkpoint_name,
    checkpoint_paths,
    remove_checkpoint,
    save_checkpoint,
)


class CheckpointError(RuntimeError):
    """The run's state cannot be saved or restored; the message says where and why."""


class CheckpointSaver:
    """Writes one snapshot at a time on a thread; ``wait`` waits for the last one.

    A save that fails is retried with growing pauses; training learns of a failure when the next
    save is due, or at the end. Each complete checkpoint is logged in the journal. Only the newest
    writer of a run's folder may save.
    """

    def __init__(
        self,
        run_path: Path,
        spec_hash: str,
        num_to_keep: int,
        journal: Journal,
        token: FencingToken,
        pauses_s: Sequence[float] = RETRY_PAUSES_S,
    ):
        self._run_path, self._spec_hash = run_path, spec_hash
        self._journal, self._token = journal, token
        self._num_to_keep, self._pauses_s = num_to_keep, pauses_s
        self._thread: threading.Thread | None = None
        self._is_snapshot = False
        self._error: Exception | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Start to write; waits first for the snapshot before.

        Raises:
            CheckpointError: that one could not be written.
            FencedError: another worker has taken over the run.
        """
        if self._is_snapshot:
            self.wait()
        self._start(lambda: self._save(snapshot))
        self._is_snapshot = True

    def save_first(self, write: Callable[[], None]) -> None:
        """Start to call ``write``; the next snapshot is written when it has returned.

        Raises:
            CheckpointError: the snapshot before could not be written.
            FencedError: another worker has taken over the run.
        """
        self.wait()
        self._start(write)
        self._is_snapshot = False

    def _start(self, write: Callable[[], None]) -> None:
        before = self._thread

        def run() -> None:
            if before is not None:
                before.join()
            try:
                if self._error is None:
                    retry_io(write, self._pauses_s)
            except Exception as error:
                # Raised by the next wait(), whatever it is.
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            CheckpointError: the last snapshot could not be written.
            FencedError: another worker has taken over the run.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if isinstance(error, FencedError):
            raise error
        if error is not None:
            cause = error.strerror if isinstance(error, OSError) else None
            raise CheckpointError(
                f"no checkpoint can be written to {self._run_path} ({cause or error}); "
                "free space or fix the storage, then submit the same spec again"
            ) from error

    def _save(self, snapshot: Snapshot) -> None:
        progress = snapshot.progress
        name = checkpoint_name(progress.step, is_evaluated=snapshot.is_evaluated)

        self._token.check()
        # The journal up to this step must survive whatever the checkpoint survives.
        self._journal.sync()
        save_checkpoint(self._run_path / name, self._spec_hash, snapshot, self._token.check)
        self._remove_old()
        self._journal.append("checkpoint", progress.step, progress.epoch, {})

    def _remove_old(self) -> None:
        for path in checkpoint_paths(self._run_path)[self._num_to_keep :]:
            remove_checkpoint(path)
