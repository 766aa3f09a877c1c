"""The teacher's logits of a worker's images of a step, all at once."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from data_pipeline.batches import Batch
from service.distillation.pixels import PixelBatch
from service.distillation.task import DistillationTask
from service.spec.job import JobSpec
from service.training.data import StepShare


class StepPlace(NamedTuple):
    """Where a worker's images stand in the order of their epoch.

    ``first_place``: of its first image, counted from 0; the others follow. ``num_local``: how many
    of its images are in the step; a worker without any computes some that do not count.
    """

    epoch: int
    step_in_epoch: int
    first_place: int
    num_local: int


def place_of(spec: JobSpec, share: StepShare, epoch: int, step_in_epoch: int) -> StepPlace:
    """The place of a worker's share of a step."""
    first = step_in_epoch * spec.training.global_batch_size
    first += share.first_micro_batch * spec.micro_batch_size
    return StepPlace(epoch, step_in_epoch, first, share.num_local)


class WrongLogitsError(RuntimeError):
    """A run has learned from stored logits that are not the teacher's."""


class TeacherLogits:
    """The teacher's logits, one batch of a worker after the other."""

    def __init__(self, task: DistillationTask):
        self._task = task

    def of(self, views: Sequence[PixelBatch], batch: Batch, place: StepPlace) -> list[Tensor]:  # noqa: ARG002
        """Logits [B, K] of each view that the teacher sees; none without a teacher.

        ``views``: the pixels, mixed where the spec mixes them. ``batch``: whose they are.
        """
        return self._task.teacher_logits(views)

    def settle(self) -> None:
        """Check what was used since the last call: without a cache, nothing."""

    def close(self) -> None:
        """End what the object has started: without a cache, nothing."""
