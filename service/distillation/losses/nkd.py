"""NKD, normalized knowledge distillation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from service.distillation.divergences import log_share_of_class, without_class
from service.distillation.logits import label_rows, paired_rows
from service.distillation.losses.base import Loss, LossInputs
from service.distillation.temperature import check_temperature
from service.spec.losses.nkd import Nkd


def nkd_loss(
    teacher_logits: Tensor,
    student_logits: Tensor,
    labels: Tensor,
    temperature: float,
    *,
    gamma: float,
    mask: Tensor | None = None,
) -> Tensor:
    """-p_y log q_y - gamma T^2 (sum over c != y of p'_c log q'_c) of each valid position, [P].

    p and q are the softmax of u and v at temperature 1. p' and q' are those of u / T and v / T
    among the classes other than the label y, so that each sums to 1.

    Source: arXiv 2303.13005.

    Args:
        teacher_logits: u, [N, K, ...].
        student_logits: v, [N, K, ...].
        labels: [N, ...].
        temperature: T.
        gamma: weight of the part among the other classes.
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes do not fit, or the temperature is not positive and finite.
    """
    check_temperature(temperature, "temperature")
    teacher, student = paired_rows(teacher_logits, student_logits, mask)
    rows = label_rows(labels, student_logits, mask)
    log_p, _ = log_share_of_class(teacher, rows)
    log_q, _ = log_share_of_class(student, rows)
    others = _nontarget_cross_entropy(teacher / temperature, student / temperature, rows)
    return -log_p.exp() * log_q + gamma * temperature**2 * others


def _nontarget_cross_entropy(teacher: Tensor, student: Tensor, labels: Tensor) -> Tensor:
    p = torch.softmax(without_class(teacher, labels), dim=1)
    log_q = F.log_softmax(without_class(student, labels), dim=1)
    # 0 x -inf for the label's class would be NaN.
    return -(p * log_q.scatter(1, labels[:, None], 0.0)).sum(dim=1)


class NkdLoss(Loss):
    """``nkd_loss`` with the section's settings."""

    section: Nkd

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        return nkd_loss(
            inputs.teacher,
            inputs.student,
            inputs.labels,
            self.section.temperature,
            gamma=self.section.gamma,
            mask=inputs.mask,
        )
