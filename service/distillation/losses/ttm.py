"""TTM, transformed teacher matching."""

from torch import Tensor

from service.distillation.divergences import kl_divergence
from service.distillation.logits import paired_rows
from service.distillation.losses.base import Loss, LossInputs
from service.distillation.temperature import check_temperature
from service.spec.losses.ttm import Ttm


def ttm_loss(
    teacher_logits: Tensor, student_logits: Tensor, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """KL(softmax(u / T) || softmax(v)) of each valid position, [P].

    softmax(u / T) is the power transform of the teacher's prediction with the exponent 1 / T.

    Source: arXiv 2402.11148.

    Args:
        teacher_logits: u, [N, K, ...].
        student_logits: v, [N, K, ...].
        temperature: T, of the teacher alone.
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive and finite.
    """
    check_temperature(temperature, "temperature")
    teacher, student = paired_rows(teacher_logits, student_logits, mask)
    return kl_divergence(teacher / temperature, student)


class TtmLoss(Loss):
    """``ttm_loss`` with the section's settings."""

    section: Ttm

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        return ttm_loss(inputs.teacher, inputs.student, self.section.temperature, inputs.mask)
