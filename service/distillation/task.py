"""The losses of micro-batches, from pixels and labels."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from service.distillation.ensemble import TeacherEnsemble
from service.distillation.losses.base import LossInputs
from service.distillation.objective import Objective
from service.distillation.pixels import FrozenTeacher, PixelBatch, PixelNormalizer
from service.distillation.regions import LOSS, STUDENT, region


class MicroBatch(NamedTuple):
    """What the losses of a micro-batch need beside logits.

    ``targets``: labels [B] or label distributions [B, K]. ``epoch`` counts from 0.
    ``weight_in_sums``: see ``LossInputs``.
    """

    targets: Tensor
    epoch: int
    weight_in_sums: int = 1


class TaskOutput(NamedTuple):
    """The result of one micro-batch.

    ``loss``: scalar with a graph, to call backward on. ``parts``: detached scalars by name: loss,
    and each loss that is in it. ``inputs``: the logits and targets, without their graph.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    inputs: LossInputs


class Trainee(nn.Module):
    """Everything that learns: the student, and the objective, whose losses may have parameters.

    ``autocast_dtype``: precision of the student's forward passes; None for float32. Losses are
    computed in float32 or wider.
    """

    def __init__(
        self, student: nn.Module, objective: Objective, autocast_dtype: torch.dtype | None = None
    ):
        super().__init__()
        self.student, self.objective = student, objective
        self.autocast_dtype = autocast_dtype
        self.student_forward: Callable[[Tensor], Tensor] | None = None
        """What computes the student's logits in training, such as compiled code of it; None: it."""

    def forward(
        self,
        micro_batches: Sequence[MicroBatch],
        views: Sequence[Tensor],
        teacher_logits: Sequence[Tensor],
    ) -> list[TaskOutput]:
        """The losses of some micro-batches, whose images go through the student in one pass.

        Args:
            micro_batches: their targets, and more about them.
            views: normalized images of each view, [B, 3, H, W], of all micro-batches.
            teacher_logits: of the views that the teacher sees, [B, K]; empty without a teacher.
        """
        images = views[0] if len(views) == 1 else torch.cat(list(views))
        with region(STUDENT), autocast(images.device, self.autocast_dtype):
            logits = (self.student_forward or self.student)(images)
        sizes = [len(one.targets) for one in micro_batches]
        of_views = _split(logits, [sum(sizes)] * len(views))
        of_student = [_split(one, sizes) for one in of_views]
        of_teacher = [_split(one, sizes) for one in teacher_logits]
        with region(LOSS):
            return [
                self._output(batch, [one[i] for one in of_student], [one[i] for one in of_teacher])
                for i, batch in enumerate(micro_batches)
            ]

    def _output(
        self, batch: MicroBatch, logits: list[Tensor], teacher_logits: list[Tensor]
    ) -> TaskOutput:
        student, strong_student, *_ = *logits, None
        teacher, strong_teacher, *_ = *teacher_logits, None, None
        inputs = LossInputs(
            student,
            batch.targets,
            batch.epoch,
            teacher,
            strong_student_logits=strong_student,
            strong_teacher_logits=strong_teacher,
            weight_in_sums=batch.weight_in_sums,
        )
        value = self.objective(inputs)
        parts = {"loss": value.total.detach(), **value.parts}
        return TaskOutput(value.total, parts, inputs.detached())


class DistillationTask:
    """Computes the losses of micro-batches.

    Args:
        trainee: student and objective; the attribute may be wrapped in DDP afterwards.
        normalizer: the student's input normalization.
        teacher: None where no loss needs one.
        autocast_dtype: precision of the teacher's forward passes; None for float32.
    """

    def __init__(
        self,
        trainee: Trainee,
        normalizer: PixelNormalizer,
        teacher: FrozenTeacher | TeacherEnsemble | None,
        *,
        autocast_dtype: torch.dtype | None = None,
    ):
        self.trainee: nn.Module = trainee
        self.normalizer = normalizer
        self.teacher = teacher
        self._num_teacher_views = 2 if trainee.objective.compares_strong_view else 1
        self._student_dtype, self._teacher_dtype = trainee.autocast_dtype, autocast_dtype

    def __call__(self, views: Sequence[Tensor], batch: MicroBatch) -> TaskOutput:
        """The losses of one micro-batch; ``views``: uint8 pixels [B, H, W, 3] of each view."""
        pixels = [PixelBatch(view) for view in views]
        images = self.student_images(pixels)
        return self.outputs([batch], images, self.teacher_logits(pixels))[0]

    def student_images(self, views: Sequence[PixelBatch]) -> list[Tensor]:
        """The student's images [B, 3, H, W] of each view."""
        return [view.normalized(self.normalizer) for view in views]

    def teacher_logits(self, views: Sequence[PixelBatch]) -> list[Tensor]:
        """Logits [B, K] of each view that the teacher sees; none without a teacher."""
        if self.teacher is None:
            return []
        with autocast(views[0].pixels.device, self._teacher_dtype):
            return [self.teacher(view) for view in views[: self._num_teacher_views]]

    def classify_by_teacher(self, pixels: Tensor) -> Tensor:
        """The teacher's logits [B, K] of uint8 pixels [B, H, W, 3], in evaluation.

        In its own precision, whatever the context's is.
        """
        assert self.teacher is not None
        dtype, is_float32 = self._teacher_dtype, self._teacher_dtype is None
        with torch.autocast(pixels.device.type, dtype=dtype, enabled=not is_float32):
            return self.teacher(pixels)

    def outputs(
        self,
        micro_batches: Sequence[MicroBatch],
        views: Sequence[Tensor],
        teacher_logits: Sequence[Tensor],
    ) -> list[TaskOutput]:
        """See ``Trainee.forward``."""
        outputs = self.trainee(micro_batches, views, teacher_logits)
        # DDP, where it wraps the trainee, may return copies of another kind of tuple.
        return [TaskOutput(*output) for output in outputs]

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Autocast context of the student's forward passes, the same in training and evaluation."""
        return autocast(device, self._student_dtype)


def _split(rows: Tensor, sizes: list[int]) -> Sequence[Tensor]:
    """Parts of these sizes; one part is the rows themselves, and its gradient is not copied."""
    return [rows] if len(sizes) == 1 else torch.split(rows, sizes)


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Context in which forward passes have this precision; None for float32."""
    # Not a disabled one: it would take as long as a small network's layer.
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
