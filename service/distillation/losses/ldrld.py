"""LDRLD, local dense relational logit distillation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from service.distillation.divergences import binary_kl, kl_divergence, masked_kl
from service.distillation.losses.base import Loss, LossInputs
from service.distillation.softening import soften
from service.spec.losses.ldrld import Ldrld

# The weight of the pair of the student's classes with ranks a and b, counted from 1, is
# PAIR_SCALE / (PAIR_OFFSET + |a - b|) x exp(-PAIR_DECAY (a + b)), as in the authors' code.
PAIR_SCALE, PAIR_OFFSET, PAIR_DECAY = 2.0, 1.5, 0.05


def ldrld_loss(
    teacher_logits: Tensor, student_logits: Tensor, section: Ldrld, mask: Tensor | None = None
) -> Tensor:
    """T^2 (alpha local + beta rest) of each valid position, [P].

    local is the weighted sum of KL between the predictions within each pair of the student's
    ``top_k`` best classes, plus KL within the set of all of them, divided by the number of pairs
    and set; the module's constants have the weights. rest is KL among all other classes.

    Source: arXiv 2507.15911.

    Args:
        teacher_logits: u, [N, K, ...].
        student_logits: v, [N, K, ...].
        section: alpha, beta, T (temperature) and top_k; its weight is not applied.
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes differ, the temperature is not positive and finite, or ``top_k`` is
            not less than K.
    """
    teacher, student, weights = soften(teacher_logits, student_logits, section.temperature, mask)
    num_classes = student.shape[1]
    if section.top_k >= num_classes:
        raise ValueError(f"top_k is {section.top_k}; it must be less than {num_classes}, classes")
    best = student.topk(section.top_k, dim=1).indices
    best_teacher, best_student = teacher.gather(1, best), student.gather(1, best)
    pairs = _pairs_kl(best_teacher, best_student)
    num_sets = section.top_k * (section.top_k - 1) // 2 + 1
    local = (pairs + kl_divergence(best_teacher, best_student)) / num_sets
    is_other = torch.ones_like(student, dtype=torch.bool).scatter(1, best, False)
    return weights * (section.alpha * local + section.beta * masked_kl(teacher, student, is_other))


def _pairs_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Weighted sum of KL within all pairs of columns, which are in the order of their ranks."""
    first, second = torch.triu_indices(
        teacher.shape[1], teacher.shape[1], offset=1, device=teacher.device
    )
    distances = (second - first).to(teacher.dtype)
    sums = (second + first + 2).to(teacher.dtype)
    weights = PAIR_SCALE / (PAIR_OFFSET + distances) * torch.exp(-PAIR_DECAY * sums)
    u = teacher[:, first] - teacher[:, second]
    v = student[:, first] - student[:, second]
    # The softmax of two logits is the sigmoid of their difference.
    divergences = binary_kl(F.logsigmoid(u), F.logsigmoid(-u), F.logsigmoid(v), F.logsigmoid(-v))
    return (weights * divergences).sum(dim=1)


class LdrldLoss(Loss):
    """``ldrld_loss`` with the section's settings."""

    section: Ldrld

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        return ldrld_loss(inputs.teacher, inputs.student, self.section, inputs.mask)
