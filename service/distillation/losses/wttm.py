"""WTTM, weighted transformed teacher matching."""

import torch
import torch.nn.functional as F
from torch import Tensor

from service.distillation.logits import paired_rows
from service.distillation.losses.base import Loss, LossInputs
from service.distillation.losses.ttm import ttm_loss
from service.spec.losses.wttm import Wttm


def wttm_loss(
    teacher_logits: Tensor, student_logits: Tensor, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """w KL(softmax(u / T) || softmax(v)) of each valid position, [P].

    w = sum over the classes of p^(1 / T), p = softmax(u). For T > 1 it is 1 where the teacher is
    sure and grows up to K^(1 - 1 / T) where its prediction is uniform.

    Source: arXiv 2402.11148.

    Arguments, and what is raised: see ``ttm_loss``.
    """
    teacher, student = paired_rows(teacher_logits, student_logits, mask)
    divergences = ttm_loss(teacher, student, temperature)
    weights = torch.logsumexp(F.log_softmax(teacher, dim=1) / temperature, dim=1).exp()
    return weights * divergences


class WttmLoss(Loss):
    """``wttm_loss`` with the section's settings."""

    section: Wttm

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        return wttm_loss(inputs.teacher, inputs.student, self.section.temperature, inputs.mask)
