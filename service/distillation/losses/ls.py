"""Logit standardization, alone."""

from torch import Tensor

from service.distillation.logits import paired_rows, standardized
from service.distillation.losses.base import Loss, LossInputs
from service.distillation.losses.kd import kd_loss
from service.spec.losses.ls import Ls


def ls_loss(
    teacher_logits: Tensor, student_logits: Tensor, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """T^2 KL(softmax(u' / T) || softmax(v' / T)) of each valid position, [P].

    u' and v' are the logits of a position minus their mean, divided by their standard deviation.

    Source: arXiv 2403.01427, with T^2 as in the authors' code.

    Args:
        teacher_logits: u, [N, K, ...].
        student_logits: v, [N, K, ...].
        temperature: T.
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive and finite.
    """
    teacher, student = map(standardized, paired_rows(teacher_logits, student_logits, mask))
    return kd_loss(teacher, student, temperature)


class LsLoss(Loss):
    """``ls_loss`` with the section's settings."""

    section: Ls

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        return ls_loss(inputs.teacher, inputs.student, self.section.temperature, inputs.mask)
