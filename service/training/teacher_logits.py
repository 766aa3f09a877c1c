"""The teacher's logits of a worker's images of a step, all at once."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from data_pipeline.loader import Batch
from service.distillation.pixels import PixelBatch
from service.distillation.task import DistillationTask


class StepPlace(NamedTuple):
    """Where a worker's images stand in the order of their epoch.

    ``first_place``: of its first image, counted from 0; the others follow. ``num_local``: how many
    of its images are in the step; a worker without any computes some that do not count.
    """

    epoch: int
    step_in_epoch: int
    first_place: int
    num_local: int


class TeacherLogits:
    """The teacher's logits, one batch of a worker after the other."""

    def __init__(self, task: DistillationTask):
        self._task = task

    def of(self, views: Sequence[PixelBatch], batch: Batch, place: StepPlace) -> list[Tensor]:  # noqa: ARG002
        """Logits [B, K] of each view that the teacher sees; none without a teacher.

        ``views``: the pixels, mixed where the spec mixes them. ``batch``: whose they are.
        """
        return self._task.teacher_logits(views)
