"""Skew KL."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from service.distillation.losses.base import Loss, LossInputs
from service.distillation.softening import soften
from service.spec.losses.skew import Skew


def skew_loss(
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float,
    *,
    share: float,
    direction: Literal["forward", "reverse"] = "forward",
    mask: Tensor | None = None,
) -> Tensor:
    """T^2 KL(p || share p + (1 - share) q) of each valid position, [P].

    p = softmax(u / T), q = softmax(v / T). Reverse: T^2 KL(q || share q + (1 - share) p). Neither
    exceeds -T^2 log(share), however small a probability of the other side is.

    Source: arXiv 2402.03898.

    Args:
        teacher_logits: u, [N, K, ...].
        student_logits: v, [N, K, ...].
        temperature: T.
        share: of the first argument of KL in the mixture, in (0, 1).
        direction: which one is the first argument: the teacher's prediction, or the student's.
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes differ, the temperature is not positive and finite, or the share is
            outside (0, 1).
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share is {share}; it must lie between 0 and 1, for example 0.1")
    teacher, student, weights = soften(teacher_logits, student_logits, temperature, mask)
    first, second = (teacher, student) if direction == "forward" else (student, teacher)
    log_p, log_q = F.log_softmax(first, dim=1), F.log_softmax(second, dim=1)
    log_mixture = torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))
    return weights * (log_p.exp() * (log_p - log_mixture)).sum(dim=1)


class SkewLoss(Loss):
    """``skew_loss`` with the section's settings."""

    section: Skew

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        return skew_loss(
            inputs.teacher,
            inputs.student,
            self.section.temperature,
            share=self.section.share,
            direction=self.section.direction,
            mask=inputs.mask,
        )
