"""NormKD, temperatures from the standard deviation of the logits."""

import torch
from torch import Tensor

from service.distillation.divergences import kl_divergence
from service.distillation.logits import centered, paired_rows
from service.distillation.losses.base import Loss, LossInputs
from service.spec.losses.normkd import Normkd


def normkd_loss(
    teacher_logits: Tensor, student_logits: Tensor, scale: float, mask: Tensor | None = None
) -> Tensor:
    """T_tea^2 KL(softmax(u / T_tea) || softmax(v / T_stu)) of each valid position, [P].

    T_tea is ``scale`` times the standard deviation of u over the classes, and T_stu that of v. The
    gradient also flows through T_stu. Where all logits of one side are equal, its prediction is
    uniform and has no gradient.

    Source: arXiv 2308.00520; the weight T_tea^2 and the gradient are those of the authors' code.

    Args:
        teacher_logits: u, [N, K, ...].
        student_logits: v, [N, K, ...].
        scale: temperature divided by standard deviation.
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes differ, or the scale is not positive and finite.
    """
    if not 0.0 < scale < float("inf"):
        raise ValueError(f"scale is {scale}; it must be positive and finite, for example 2")
    teacher, student = paired_rows(teacher_logits, student_logits, mask)
    weights = (scale * _deviations(teacher)[:, 0]).square()
    return weights * kl_divergence(_normalized(teacher, scale), _normalized(student, scale))


def _normalized(rows: Tensor, scale: float) -> Tensor:
    """Rows [P, K] divided by scale x standard deviation; those of equal logits become 0."""
    deviations = _deviations(rows)
    is_varied = deviations > 0
    divisors = torch.where(is_varied, scale * deviations, 1.0)
    # Centered, so that logits far from 0 keep their digits.
    return torch.where(is_varied, centered(rows) / divisors, 0.0)


def _deviations(rows: Tensor) -> Tensor:
    """Unbiased standard deviation of each row [P, K], [P, 1]; without gradient where it is 0."""
    variances = centered(rows).square().sum(dim=1, keepdim=True) / max(rows.shape[1] - 1, 1)
    is_varied = variances > 0
    # The root's derivative at 0 is infinite.
    return torch.where(is_varied, torch.where(is_varied, variances, 1.0).sqrt(), 0.0)


class NormkdLoss(Loss):
    """``normkd_loss`` with the section's settings."""

    section: Normkd

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        return normkd_loss(inputs.teacher, inputs.student, self.section.scale, inputs.mask)

    @torch.no_grad()
    def telemetry(self, inputs: LossInputs) -> dict[str, Tensor]:
        """teacher_temperature and student_temperature of each position."""
        teacher, student = paired_rows(inputs.teacher, inputs.student, inputs.mask)
        return {
            "teacher_temperature": self.section.scale * _deviations(teacher)[:, 0],
            "student_temperature": self.section.scale * _deviations(student)[:, 0],
        }
