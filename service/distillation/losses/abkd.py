"""ABKD, alpha-beta divergence."""

import torch
import torch.nn.functional as F
from torch import Tensor

from service.distillation.logits import paired_rows, standardized
from service.distillation.losses.base import Loss, LossInputs
from service.distillation.softening import soften
from service.spec.losses.abkd import Abkd


def abkd_loss(
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float,
    *,
    alpha: float,
    beta: float,
    mask: Tensor | None = None,
) -> Tensor:
    """Alpha-beta divergence between the softened predictions of each valid position, [P].

    With p = softmax(u / T), q = softmax(v / T) and s = alpha + beta, it is the sum over classes of

        -(p^alpha q^beta - (alpha / s) p^s - (beta / s) q^s) / (alpha beta)

    and where an exponent is 0, the limit of this: KL(p || q) at (1, 0), KL(q || p) at (0, 1), and
    half the squared difference of the log-probabilities at (0, 0). It is not multiplied by T^2.

    Source: arXiv 2505.04560. The authors' code is alpha times the limit for beta = 0, and
    beta times the limit for alpha = 0: the same at (1, 0) and (0, 1).

    Args:
        teacher_logits: u, [N, K, ...].
        student_logits: v, [N, K, ...].
        temperature: T.
        alpha: power of the teacher's probabilities, 0 or more.
        beta: power of the student's probabilities, 0 or more.
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes differ, the temperature is not positive and finite, or an exponent
            is negative.
    """
    if min(alpha, beta) < 0.0:
        raise ValueError(f"alpha is {alpha} and beta {beta}; both must be 0 or more")
    teacher, student, _ = soften(teacher_logits, student_logits, temperature, mask)
    log_p, log_q = F.log_softmax(teacher, dim=1), F.log_softmax(student, dim=1)
    if alpha + beta == 0.0:
        return 0.5 * (log_p - log_q).square().sum(dim=1)
    return (_excess(log_p, log_q, alpha, beta) + _excess(log_q, log_p, beta, alpha)).sum(dim=1)


def _excess(log_p: Tensor, log_q: Tensor, alpha: float, beta: float) -> Tensor:
    """The divergence of each class where p > q, otherwise 0.

    With d = log p - log q, the formula equals p^s / s (f(beta) - exp(-beta d) f(alpha)), where f(c)
    = (1 - exp(-c d)) / c, which is d for c = 0. This form neither overflows nor loses the digits of
    a small alpha or beta, and has the limits without a case for each.
    """
    differences = (log_p - log_q).clamp_min(0.0)
    bracket = _saturating(differences, beta) - torch.exp(-beta * differences) * _saturating(
        differences, alpha
    )
    return torch.exp((alpha + beta) * log_p) / (alpha + beta) * bracket


def _saturating(differences: Tensor, rate: float) -> Tensor:
    """(1 - exp(-rate d)) / rate, which rises from 0 with slope 1 to 1 / rate."""
    return -torch.expm1(-rate * differences) / rate if rate > 0.0 else differences


class AbkdLoss(Loss):
    """``abkd_loss`` with the section's settings."""

    section: Abkd

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        section = self.section
        rows = paired_rows(inputs.teacher, inputs.student, inputs.mask)
        teacher, student = map(standardized, rows) if section.standardize else rows
        return abkd_loss(
            teacher, student, section.temperature, alpha=section.alpha, beta=section.beta
        )
