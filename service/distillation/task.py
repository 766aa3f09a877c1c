"""The loss of a micro-batch, from pixels and labels."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from service.distillation.ensemble import TeacherEnsemble
from service.distillation.losses.base import LossInputs
from service.distillation.objective import Objective
from service.distillation.pixels import FrozenTeacher, PixelNormalizer


class MicroBatch(NamedTuple):
    """What the loss of a micro-batch is computed from.

    ``views``: uint8 RGB, [B, H, W, 3]: the weak view and, if the spec has one, the strong one.
    ``targets``: labels [B] or label distributions [B, K]. ``epoch`` counts from 0.
    ``weight_in_sums``: see ``LossInputs``.
    """

    views: list[Tensor]
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
        self._autocast_dtype = autocast_dtype

    def forward(
        self, batch: MicroBatch, images: list[Tensor], teacher_logits: list[Tensor]
    ) -> TaskOutput:
        """The loss of a micro-batch.

        Args:
            batch: its targets, and more about it.
            images: normalized images of each view, [B, 3, H, W].
            teacher_logits: of the views that it sees, [B, K]; empty without a teacher.
        """
        with autocast(images[0].device, self._autocast_dtype):
            logits = [self.student(view) for view in images]
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
    """Computes the loss of a micro-batch.

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
        self._autocast_dtype = autocast_dtype

    def __call__(self, batch: MicroBatch) -> TaskOutput:
        """Compute the loss of a micro-batch, and its parts."""
        teacher_logits: list[Tensor] = []
        if self.teacher is not None:
            with self.autocast(batch.targets.device):
                views = batch.views[: self._num_teacher_views]
                teacher_logits = [self.teacher(view) for view in views]
        images = [self.normalizer(view) for view in batch.views]
        output = self.trainee(batch, images, teacher_logits)
        # DDP, where it wraps the trainee, may return a copy of another kind of tuple.
        return TaskOutput(*output)

    def autocast(self, device: torch.device) -> torch.autocast:
        """Autocast context of forward passes, the same in training and evaluation."""
        return autocast(device, self._autocast_dtype)


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Context in which forward passes have this precision; None for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
