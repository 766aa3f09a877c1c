"""KD, knowledge distillation with one temperature."""

from torch import Tensor

from service.distillation.divergences import kl_divergence
from service.distillation.fused.terms import SoftenedTerm
from service.distillation.losses.base import LossInputs
from service.distillation.losses.softened import SoftenedRows
from service.distillation.softening import fused_term_by, soften
from service.distillation.temperature import Temperatures
from service.spec.losses.kd import Kd


def kd_loss(
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float | Temperatures,
    mask: Tensor | None = None,
) -> Tensor:
    """Knowledge distillation: T^2 KL(softmax(u / T) || softmax(v / T)) of each valid position, [P].

    No gradient flows to the teacher's logits.

    Source: Hinton et al., arXiv 1503.02531, section 2.

    Args:
        teacher_logits: u, [N, K, ...].
        student_logits: v, [N, K, ...].
        temperature: T, or pairs of them, whose product then takes the place of T^2.
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive and finite.
    """
    teacher, student, weights = soften(teacher_logits, student_logits, temperature, mask)
    return weights * kl_divergence(teacher, student)


class KdLoss(SoftenedRows):
    """``kd_loss`` at the temperatures of the section's rule."""

    section: Kd

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        return kd_loss(*self.rows(inputs))

    def fused_term(self, inputs: LossInputs) -> SoftenedTerm | None:
        """At one temperature for all rows, or DTKD's pairs."""
        if self.section.standardize:
            return None
        return fused_term_by(self.section.temperature, inputs.epoch, self.context.num_epochs)
