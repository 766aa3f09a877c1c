"""DKD, decoupled knowledge distillation."""

from torch import Tensor

from service.distillation.divergences import nontarget_kl, target_kl
from service.distillation.logits import label_rows
from service.distillation.losses.base import LossInputs
from service.distillation.losses.softened import SoftenedRows
from service.distillation.softening import soften
from service.distillation.temperature import Temperatures
from service.spec.losses.dkd import Dkd


def dkd_loss(
    teacher_logits: Tensor,
    student_logits: Tensor,
    labels: Tensor,
    temperature: float | Temperatures,
    *,
    alpha: float,
    beta: float,
    mask: Tensor | None = None,
) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD) of each valid position, [P].

    Source: arXiv 2203.08679, eq. 7; at DTKD's temperatures, arXiv 2404.12711, table 6.

    Args:
        teacher_logits: u, [N, K, ...].
        student_logits: v, [N, K, ...].
        labels: [N, ...].
        temperature: T, or pairs of them, whose product then takes the place of T^2.
        alpha: weight of the label's class against all others.
        beta: weight of the part among the other classes.
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes do not fit, or the temperature is not positive and finite.
    """
    teacher, student, weights = soften(teacher_logits, student_logits, temperature, mask)
    rows = label_rows(labels, student_logits, mask)
    total = student.new_zeros(len(student))
    if alpha > 0:
        total = total + alpha * target_kl(teacher, student, rows)
    if beta > 0:
        total = total + beta * nontarget_kl(teacher, student, rows)
    return weights * total


class DkdLoss(SoftenedRows):
    """``dkd_loss`` at the temperatures of the section's rule."""

    section: Dkd

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        teacher, student, found = self.rows(inputs)
        alpha, beta = self.section.alpha, self.section.beta
        return dkd_loss(teacher, student, self.labels(inputs), found, alpha=alpha, beta=beta)
