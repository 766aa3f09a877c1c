"""RLD, refined logit distillation."""

from torch import Tensor

from service.distillation.divergences import binary_kl, log_share_of_class, masked_kl
from service.distillation.logits import label_rows, paired_rows
from service.distillation.losses.base import Loss, LossInputs
from service.distillation.temperature import check_temperature
from service.spec.losses.rld import Rld


def rld_loss(
    teacher_logits: Tensor,
    student_logits: Tensor,
    labels: Tensor,
    section: Rld,
    mask: Tensor | None = None,
) -> Tensor:
    """alpha T_a^2 SCD + beta T^2 MCD of each valid position, [P].

    SCD is KL between [max p, 1 - max p] and [q_y, 1 - q_y] at the temperature T_a: the student
    learns the teacher's confidence for the label y, whatever class the teacher prefers. MCD is KL
    at the temperature T among the classes whose teacher logit is less than that of y; 0 if there is
    none. Where y is the teacher's only best class and T_a = T, the loss is that of DKD.

    Source: arXiv 2408.07703.

    Args:
        teacher_logits: u, [N, K, ...].
        student_logits: v, [N, K, ...].
        labels: y, [N, ...].
        section: alpha, beta, T (temperature) and T_a (confidence_temperature); its weight is not
            applied.
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes do not fit, or a temperature is not positive and finite.
    """
    temperature, confidence_temperature = section.temperature, section.confidence_temperature
    check_temperature(temperature, "temperature")
    check_temperature(confidence_temperature, "confidence_temperature")
    teacher, student = paired_rows(teacher_logits, student_logits, mask)
    rows = label_rows(labels, student_logits, mask)
    confidence = binary_kl(
        *log_share_of_class(teacher / confidence_temperature, teacher.argmax(dim=1)),
        *log_share_of_class(student / confidence_temperature, rows),
    )
    is_lower = teacher < teacher.gather(1, rows[:, None])
    among_lower = masked_kl(teacher / temperature, student / temperature, is_lower)
    return (
        section.alpha * confidence_temperature**2 * confidence
        + section.beta * temperature**2 * among_lower
    )


class RldLoss(Loss):
    """``rld_loss`` with the section's settings."""

    section: Rld

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        return rld_loss(inputs.teacher, inputs.student, inputs.labels, self.section, inputs.mask)
