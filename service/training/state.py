"""A worker's training state: restored from checkpoints, and saved to them asynchronously."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.files import retry_io
from service.distillation.task import Trainee
from service.models.weights import file_metadata
from service.run.progress import Progress
from service.spec.job import JobSpec
from service.training.average import WeightAverage
from service.training.batchnorm import RunningStatistics
from service.training.checkpoint import (
    Snapshot,
    copied_to_cpu,
    cpu_state_dict,
    load_checkpoint,
    mean_of_ranks,
    newest_checkpoint,
    quarantine_damaged,
    remove_leftovers,
)
from service.training.checkpoint_saver import CheckpointError, CheckpointSaver
from service.training.distributed import World
from service.training.loss_scale import LossScale
from service.training.metrics import IntervalMetrics

Result = TypeVar("Result")


class StepSnapshot(NamedTuple):
    """BatchNorm's statistics and the losses' running sums of one worker, before a step."""

    statistics: list[Tensor]
    running_sums: list[Tensor]


class TrainState:
    """The parts of one worker that a checkpoint holds; rank 0 writes for all.

    ``group``: all workers, between CPUs; None where there is only one.
    """

    def __init__(
        self,
        spec: JobSpec,
        world: World,
        trainee: Trainee,
        ema: WeightAverage | None,
        optimizer: torch.optim.Optimizer,
        metrics: IntervalMetrics,
        saver: CheckpointSaver | None,
        group: dist.ProcessGroup | None,
        loss_scale: LossScale | None = None,
    ):
        self._loss_scale = loss_scale
        self._run_path, self._checkpoints, self._world = spec.run_path, spec.checkpoints, world
        self._student, self._objective = trainee.student, trainee.objective
        self._ema, self._optimizer = ema, optimizer
        num_views = 1 if spec.augmentation.strong is None else 2
        self.statistics = RunningStatistics(self._student, world.size, num_views)
        """BatchNorm's running statistics of the student."""
        self._ema_statistics = (
            RunningStatistics(ema.module, world.size) if ema is not None else None
        )
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
        # The learning rates belong to the progress: the step that runs now has set its own.
        rates = [group["lr"] for group in self._optimizer.param_groups]
        step = self._load(found).step
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
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
            lambda: load_checkpoint(
                path, self._student, self._ema, self._optimizer, self._objective
            )
        )
        same_world = len(per_rank) == self._world.size
        local = per_rank[self._world.rank] if same_world else mean_of_ranks(per_rank)
        self.statistics.restore(local["statistics"])
        for tensor, value in zip(
            self._objective.running_sums(), local["running_sums"], strict=True
        ):
            tensor.copy_(value)
        if self._ema is not None and self._ema_statistics is not None:
            self._ema_statistics.restore(local["ema_statistics"])
            self._ema.num_updates.fill_(local["num_averaged"])
        if self._loss_scale is not None:
            self._loss_scale.load_state_dict(local["loss_scale"])
        self._metrics.restore(local["metrics"])
        return progress

    def snapshot(self) -> StepSnapshot:
        """A copy of what a step changes on this worker before its update is made."""
        sums = [tensor.clone() for tensor in self._objective.running_sums()]
        return StepSnapshot(self.statistics.snapshot(), sums)

    @torch.no_grad()
    def undo_step(self, snapshot: StepSnapshot, where: Tensor) -> None:
        """Undo what a step has changed if the scalar ``where`` is true; it is not read."""
        self.statistics.restore(snapshot.statistics, where)
        for tensor, value in zip(
            self._objective.running_sums(), snapshot.running_sums, strict=True
        ):
            torch.where(where, value, tensor, out=tensor)

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

    def _local_statistics(self) -> list[list[Tensor]]:
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
                "running_sums": self._objective.running_sums(),
                "num_averaged": float(self._ema.num_updates) if self._ema is not None else 0.0,
                "loss_scale": self._loss_scale.state_dict() if self._loss_scale is not None else {},
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
                cpu_state_dict(self._objective),
            )
        )

    def wait(self) -> None:
        """Wait until the checkpoint that is being saved is on the disk.

        Raises:
            CheckpointError: it cannot be written.
        """
        if self._saver is not None:
            self._saver.wait()
