"""All that a run goes on from: taken up from a checkpoint, and given to one."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.swa_utils import AveragedModel

from data_pipeline.patience import patiently
from service.spec import JobSpec
from service.training.batchnorm import RunningStatistics
from service.training.checkpoints import (
    Progress,
    Snapshot,
    copied,
    load_checkpoint,
    mean_of_ranks,
    newest_checkpoint,
    plain_state,
    remove_leftovers,
    set_damaged_aside,
)
from service.training.metrics import IntervalMetrics
from service.training.saving import CheckpointError, CheckpointSaver
from service.training.world import World

Result = TypeVar("Result")


class RunState:
    """The parts of one worker that a checkpoint holds; rank 0 writes for all."""

    def __init__(
        self,
        spec: JobSpec,
        world: World,
        student: nn.Module,
        average: AveragedModel | None,
        optimizer: torch.optim.Optimizer,
        metrics: IntervalMetrics,
        saver: CheckpointSaver | None,
    ):
        self._spec, self._world = spec, world
        self._student, self._average, self._optimizer = student, average, optimizer
        self.statistics = RunningStatistics(student, world.size)
        """BatchNorm's, of the student."""
        self._average_statistics = (
            RunningStatistics(average, world.size) if average is not None else None
        )
        self._metrics, self._saver = metrics, saver
        self._saved_s = time.monotonic()

    def restore(self, note: Callable[[str], None]) -> Progress:
        """Go on from the newest good checkpoint; rank 0 looks, all take the same.

        Raises:
            CheckpointError: the storage does not answer.
        """
        run_path = self._spec.run_path

        def find() -> Path | None:
            remove_leftovers(run_path)
            for line in set_damaged_aside(run_path):
                note(line)
            return newest_checkpoint(run_path)

        found = self._of_first_rank(find)
        return self._load(found) if found is not None else Progress()

    def roll_back(self) -> int:
        """Take up the newest checkpoint's weights and what belongs to them, but not its place.

        Returns the step that they are of.
        """
        if self._saver is not None:
            self._saver.wait()
        found = self._of_first_rank(lambda: newest_checkpoint(self._spec.run_path))
        assert found is not None, "a run that may roll back begins with a checkpoint"
        step = self._load(found).step
        self._metrics.reset()
        return step

    def _of_first_rank(self, find: Callable[[], Path | None]) -> Path | None:
        """What rank 0 finds on the storage, on all ranks."""
        found: list[Path | None] = [None]
        if self._world.rank == 0:
            found = [self._from_storage(find)]
        if self._world.size > 1:
            dist.broadcast_object_list(found)
        return found[0]

    def _from_storage(self, find: Callable[[], Result]) -> Result:
        try:
            return patiently(find)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoints in {self._spec.run_path} cannot be read ({error.strerror}); mend "
                "the storage, then submit the same spec again"
            ) from error

    def _load(self, path: Path) -> Progress:
        progress, ranks = self._from_storage(
            lambda: load_checkpoint(path, self._student, self._average, self._optimizer)
        )
        same_world = len(ranks) == self._world.size
        mine = ranks[self._world.rank] if same_world else mean_of_ranks(ranks)
        self.statistics.restore(mine["statistics"])
        if self._average is not None and self._average_statistics is not None:
            self._average_statistics.restore(mine["average_statistics"])
            self._average.n_averaged.fill_(mine["num_averaged"])
        self._metrics.restore(mine["metrics"])
        return progress

    def is_due(self, step: int) -> bool:
        """Whether the spec's steps, or here on rank 0 its minutes, say that it is time to save."""
        checkpoints = self._spec.checkpoints
        if checkpoints.every_steps is not None and step % checkpoints.every_steps == 0:
            return True
        # Clocks differ; one is enough.
        if checkpoints.every_minutes is None or self._world.rank != 0:
            return False
        return time.monotonic() - self._saved_s >= 60 * checkpoints.every_minutes

    def synchronize(self) -> None:
        """Average BatchNorm's statistics over the workers, for an evaluation."""
        self._unsynchronized = copied(self._local_statistics())
        for statistics in self._all_statistics():
            statistics.synchronize()

    def undo_synchronize(self) -> None:
        """Go back to before an evaluation that will have to be done again."""
        for statistics, state in zip(self._all_statistics(), self._unsynchronized, strict=True):
            statistics.restore(state)

    def _all_statistics(self) -> list[RunningStatistics]:
        averaged = self._average_statistics
        return [self.statistics] if averaged is None else [self.statistics, averaged]

    def _local_statistics(self) -> list[list[torch.Tensor]]:
        return [statistics.state() for statistics in self._all_statistics()]

    def save(self, progress: Progress, *, is_evaluated: bool = True) -> None:
        """Copy the state and let rank 0 write it beside training; every rank must call it.

        Not ``is_evaluated`` is a state at an epoch's end whose evaluation is still to come.

        Raises:
            CheckpointError: the checkpoint before this one could not be written.
        """
        self._saved_s = time.monotonic()
        local = self._local_statistics()
        mine = copied(
            {
                "statistics": local[0],
                "average_statistics": local[1] if len(local) > 1 else [],
                "num_averaged": int(self._average.n_averaged) if self._average is not None else 0,
                "metrics": self._metrics.state(),
            }
        )
        ranks = [mine] * self._world.size
        if self._world.size > 1:
            dist.gather_object(mine, ranks if self._world.rank == 0 else None)
        if self._saver is None:
            return
        self._saver.save(
            Snapshot(
                plain_state(self._student),
                plain_state(self._average.module) if self._average is not None else None,
                copied(self._optimizer.state_dict()),
                ranks,
                replace(progress),
                is_evaluated,
            )
        )

    def wait(self) -> None:
        """Wait until what is being saved is on the disk.

        Raises:
            CheckpointError: it cannot be written.
        """
        if self._saver is not None:
            self._saver.wait()
