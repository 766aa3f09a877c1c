"""All that a run goes on from: taken up from a checkpoint, and given to one."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

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
    set_damaged_aside,
)
from service.training.data import World
from service.training.metrics import IntervalMetrics
from service.training.saving import CheckpointSaver


class RunState:
    """The parts of one worker that a checkpoint holds; rank 0 writes for all."""

    def __init__(
        self,
        spec: JobSpec,
        world: World,
        student: nn.Module,
        average: nn.Module | None,
        optimizer: torch.optim.Optimizer,
        statistics: RunningStatistics,
        metrics: IntervalMetrics,
    ):
        self._spec, self._world = spec, world
        self._student, self._average = student, average
        self._optimizer, self._statistics, self._metrics = optimizer, statistics, metrics
        self._saver = CheckpointSaver(
            spec.run_path, spec.content_hash(), spec.checkpoints.num_to_keep
        )
        self._saved_s = time.monotonic()

    def restore(self, note: Callable[[str], None]) -> Progress:
        """Go on from the newest good checkpoint; rank 0 looks, all take the same."""
        found: list[Path | None] = [None]
        if self._world.rank == 0:
            for line in set_damaged_aside(self._spec.run_path):
                note(line)
            found = [newest_checkpoint(self._spec.run_path)]
        if self._world.size > 1:
            dist.broadcast_object_list(found)
        if found[0] is None:
            return Progress()
        progress, ranks = load_checkpoint(found[0], self._student, self._average, self._optimizer)
        same_world = len(ranks) == self._world.size
        mine = ranks[self._world.rank] if same_world else mean_of_ranks(ranks)
        self._statistics.restore(mine["statistics"])
        if self._average is not None:
            RunningStatistics(self._average).restore(mine["average_statistics"])
        self._metrics.restore(mine["metrics"])
        return progress

    def save_if_due(self, progress: Progress, *, looks_at_clock: bool) -> None:
        """Save where the spec's steps or, if it is time to look, its minutes say so."""
        checkpoints = self._spec.checkpoints
        due = checkpoints.every_steps is not None and progress.step % checkpoints.every_steps == 0
        if checkpoints.every_minutes is not None and looks_at_clock:
            waited_s = time.monotonic() - self._saved_s
            due |= self._first_rank_says(waited_s >= 60 * checkpoints.every_minutes)
        if due:
            self.save(progress)

    def _first_rank_says(self, answer: bool) -> bool:
        """Rank 0's answer, on all ranks: clocks differ."""
        if self._world.size == 1:
            return answer
        said = torch.tensor([answer], device=self._world.device)
        dist.broadcast(said, src=0)
        return bool(said)

    def save(self, progress: Progress) -> None:
        """Copy the state and let rank 0 write it beside training; every rank must call it.

        Raises:
            CheckpointError: the checkpoint before this one could not be written.
        """
        self._saved_s = time.monotonic()
        average = self._average
        mine = copied(
            {
                "statistics": self._statistics.state(),
                "average_statistics": RunningStatistics(average).state() if average else [],
                "metrics": self._metrics.state(),
            }
        )
        ranks = [mine] * self._world.size
        if self._world.size > 1:
            dist.gather_object(mine, ranks if self._world.rank == 0 else None)
        if self._world.rank != 0:
            return
        self._saver.save(
            Snapshot(
                plain_state(self._student),
                plain_state(average) if average is not None else None,
                copied(self._optimizer.state_dict()),
                ranks,
                replace(progress),
            )
        )

    def wait(self) -> None:
        """Wait until what is being saved is on the disk.

        Raises:
            CheckpointError: it cannot be written.
        """
        self._saver.wait()
