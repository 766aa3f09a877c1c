"""A worker's training state: restored from checkpoints, and saved to them asynchronously."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.swa_utils import AveragedModel

from data_pipeline.files import RETRY_PAUSES_S, retry_io
from service.models.weights import file_metadata
from service.run.folder import FencedError, FencingToken
from service.run.journal import Journal
from service.run.progress import Progress
from service.spec.job import JobSpec
from service.training.batchnorm import RunningStatistics
from service.training.checkpoint import (
    Snapshot,
    checkpoint_name,
    checkpoint_paths,
    copied_to_cpu,
    cpu_state_dict,
    load_checkpoint,
    mean_of_ranks,
    newest_checkpoint,
    quarantine_damaged,
    remove_checkpoint,
    remove_leftovers,
    save_checkpoint,
)
from service.training.distributed import World
from service.training.metrics import IntervalMetrics

Result = TypeVar("Result")


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
        self._error: Exception | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Start to write; waits first for the snapshot before.

        Raises:
            CheckpointError: that one could not be written.
            FencedError: another worker has taken over the run.
        """
        self.wait()
        self._thread = threading.Thread(target=self._save, args=(snapshot,), name="checkpoint")
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

        def write() -> None:
            self._token.check()
            # The journal up to this step must survive whatever the checkpoint survives.
            self._journal.sync()
            path = self._run_path / name
            save_checkpoint(path, self._spec_hash, snapshot, self._token.check)
            self._remove_old()

        try:
            retry_io(write, self._pauses_s)
            self._journal.append("checkpoint", progress.step, progress.epoch, {})
        except Exception as error:
            # Raised by the next wait(), whatever it is.
            self._error = error

    def _remove_old(self) -> None:
        for path in checkpoint_paths(self._run_path)[self._num_to_keep :]:
            remove_checkpoint(path)


class TrainState:
    """The parts of one worker that a checkpoint holds; rank 0 writes for all.

    ``group``: all workers, between CPUs; None where there is only one.
    """

    def __init__(
        self,
        spec: JobSpec,
        world: World,
        student: nn.Module,
        ema: AveragedModel | None,
        optimizer: torch.optim.Optimizer,
        metrics: IntervalMetrics,
        saver: CheckpointSaver | None,
        group: dist.ProcessGroup | None,
    ):
        self._run_path, self._checkpoints, self._world = spec.run_path, spec.checkpoints, world
        self._student, self._ema, self._optimizer = student, ema, optimizer
        self.statistics = RunningStatistics(student, world.size)
        """BatchNorm's running statistics of the student."""
        self._ema_statistics = RunningStatistics(ema, world.size) if ema is not None else None
        self._metrics, self._saver, self._group = metrics, saver, group
        self._saved_s = time.monotonic()

    def restore(self, log: Callable[[str], None]) -> Progress:
        """Resume from the newest intact checkpoint, which rank 0 finds for all.

        Raises:
            CheckpointError: the storage fails.
        """

        def find() -> Path | None:
            remove_leftovers(self._run_path)
            for line in quarantine_damaged(self._run_path):
                log(line)
            return newest_checkpoint(self._run_path)

        found = self._find_on_first_rank(find)
        return self._load(found) if found is not None else Progress()

    def roll_back(self) -> int:
        """Load the newest checkpoint's weights and all that belongs to them, but not its progress.

        Returns the step of the checkpoint.
        """
        if self._saver is not None:
            self._saver.wait()
        found = self._find_on_first_rank(lambda: newest_checkpoint(self._run_path))
        assert found is not None, "a run that may roll back starts with a checkpoint"
        step = self._load(found).step
        self._metrics.reset()
        return step

    def _find_on_first_rank(self, find: Callable[[], Path | None]) -> Path | None:
        """What rank 0 finds on the storage, on all ranks."""
        found: list[Path | None] = [None]
        if self._world.rank == 0:
            found = [self._read(find)]
        if self._world.size > 1:
            dist.broadcast_object_list(found, group=self._group)
        return found[0]

    def _read(self, action: Callable[[], Result]) -> Result:
        try:
            return retry_io(action)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoints in {self._run_path} cannot be read ({error.strerror}); fix the "
                "storage, then submit the same spec again"
            ) from error

    def _load(self, path: Path) -> Progress:
        progress, per_rank = self._read(
            lambda: load_checkpoint(path, self._student, self._ema, self._optimizer)
        )
        same_world = len(per_rank) == self._world.size
        local = per_rank[self._world.rank] if same_world else mean_of_ranks(per_rank)
        self.statistics.restore(local["statistics"])
        if self._ema is not None and self._ema_statistics is not None:
            self._ema_statistics.restore(local["ema_statistics"])
            self._ema.n_averaged.fill_(local["num_averaged"])
        self._metrics.restore(local["metrics"])
        return progress

    def is_save_due(self, step: int) -> bool:
        """Whether a checkpoint is due by the spec's steps or, on rank 0 alone, by its minutes."""
        checkpoints = self._checkpoints
        if checkpoints.every_steps is not None and step % checkpoints.every_steps == 0:
            return True
        # Clocks differ between workers; one is enough.
        if checkpoints.every_minutes is None or self._world.rank != 0:
            return False
        return time.monotonic() - self._saved_s >= 60 * checkpoints.every_minutes

    def synchronize_statistics(self) -> None:
        """Average BatchNorm's statistics over the workers, for an evaluation."""
        self._unsynchronized = copied_to_cpu(self._local_statistics())
        for statistics in self._all_statistics():
            statistics.synchronize()

    def undo_synchronize(self) -> None:
        """Restore the statistics from before an evaluation that has to be repeated."""
        for statistics, state in zip(self._all_statistics(), self._unsynchronized, strict=True):
            statistics.restore(state)

    def _all_statistics(self) -> list[RunningStatistics]:
        ema = self._ema_statistics
        return [self.statistics] if ema is None else [self.statistics, ema]

    def _local_statistics(self) -> list[list[torch.Tensor]]:
        return [statistics.state() for statistics in self._all_statistics()]

    def save(self, progress: Progress, *, is_evaluated: bool = True) -> None:
        """Copy the state, which rank 0 then writes asynchronously; every rank must call it.

        ``is_evaluated``: see ``Snapshot``.

        Raises:
            CheckpointError: the checkpoint before this one could not be written.
        """
        self._saved_s = time.monotonic()
        statistics = self._local_statistics()
        local = copied_to_cpu(
            {
                "statistics": statistics[0],
                "ema_statistics": statistics[1] if len(statistics) > 1 else [],
                "num_averaged": int(self._ema.n_averaged) if self._ema is not None else 0,
                "metrics": self._metrics.state(),
            }
        )
        per_rank = [local] * self._world.size
        if self._world.size > 1:
            gathered = per_rank if self._world.rank == 0 else None
            dist.gather_object(local, gathered, group=self._group)
        if self._saver is None:
            return
        self._saver.save(
            Snapshot(
                cpu_state_dict(self._student),
                cpu_state_dict(self._ema.module) if self._ema is not None else None,
                copied_to_cpu(self._optimizer.state_dict()),
                per_rank,
                replace(progress),
                is_evaluated,
                file_metadata(self._student),
            )
        )

    def wait(self) -> None:
        """Wait until the checkpoint that is being saved is on the disk.

        Raises:
            CheckpointError: it cannot be written.
        """
        if self._saver is not None:
            self._saver.wait()
