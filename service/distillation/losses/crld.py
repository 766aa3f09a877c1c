"""CRLD, cross-view consistency regularization."""

import torch
from torch import Tensor

from service.distillation.logits import as_rows
from service.distillation.losses.base import Loss, LossInputs
from service.distillation.losses.kd import kd_loss
from service.spec.losses.crld import Crld


def crld_loss(
    weak_teacher_logits: Tensor,
    weak_student_logits: Tensor,
    strong_teacher_logits: Tensor,
    strong_student_logits: Tensor,
    section: Crld,
    mask: Tensor | None = None,
) -> Tensor:
    """within m_w (KD_ww + KD_ss) + across m_s (KD_sw + KD_ws) of each valid position, [P].

    KD_ab is KD between the student's prediction for the view a and the teacher's for the view b,
    both weak or strong. m_w and m_s are 1 where the teacher's largest probability at temperature 1,
    for the weak and the strong view, is at least the confidence of the section, else 0.

    Source: arXiv 2412.16493.

    Args:
        weak_teacher_logits: of the weak view, [N, K, ...].
        weak_student_logits: of the weak view, [N, K, ...].
        strong_teacher_logits: of the strong view, [N, K, ...].
        strong_student_logits: of the strong view, [N, K, ...].
        section: the weights, confidences and temperature; its weight is not applied.
        mask: [N, ...], bool: the positions that count, in both views; None for all.

    Raises:
        ValueError: the shapes differ.
    """

    def divergences(student: Tensor, teacher: Tensor) -> Tensor:
        return kd_loss(teacher, student, section.temperature, mask)

    within = divergences(weak_student_logits, weak_teacher_logits)
    within = within + divergences(strong_student_logits, strong_teacher_logits)
    across = divergences(strong_student_logits, weak_teacher_logits)
    across = across + divergences(weak_student_logits, strong_teacher_logits)
    is_within = is_sure(weak_teacher_logits, section.weak_confidence, mask)
    is_across = is_sure(strong_teacher_logits, section.strong_confidence, mask)
    return section.within * within * is_within + section.across * across * is_across


@torch.no_grad()
def is_sure(logits: Tensor, confidence: float, mask: Tensor | None = None) -> Tensor:
    """Whether the largest probability of each valid position is at least ``confidence``; [P]."""
    return torch.softmax(as_rows(logits, mask), dim=1).amax(dim=1) >= confidence


class CrldLoss(Loss):
    """``crld_loss`` with the section's settings."""

    section: Crld

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        weak = inputs.teacher, inputs.student
        strong = inputs.strong_teacher, inputs.strong_student
        return crld_loss(*weak, *strong, self.section, inputs.mask)

    def telemetry(self, inputs: LossInputs) -> dict[str, Tensor]:
        """1 for the samples that count within and across views, else 0."""
        weak_confidence = self.section.weak_confidence
        strong_confidence = self.section.strong_confidence
        weak = is_sure(inputs.teacher, weak_confidence, inputs.mask)
        strong = is_sure(inputs.strong_teacher, strong_confidence, inputs.mask)
        return {"weak_mask_share": weak.float(), "strong_mask_share": strong.float()}
