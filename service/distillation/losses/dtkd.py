"""DTKD, dynamic temperature knowledge distillation."""

from torch import Tensor

from service.distillation.divergences import kl_divergence
from service.distillation.fused.terms import SoftenedTerm
from service.distillation.logits import paired_rows, standardized
from service.distillation.losses.base import Loss, LossInputs
from service.distillation.softening import (
    dynamic_temperatures,
    fused_dynamic_term,
    temperature_telemetry,
)
from service.distillation.temperature import Temperatures
from service.spec.losses.dtkd import Dtkd


def dtkd_loss(
    teacher_logits: Tensor, student_logits: Tensor, section: Dtkd, mask: Tensor | None = None
) -> Tensor:
    """T_tea T_stu KL(softmax(u / T_tea) || softmax(v / T_stu)) of each valid position, [P].

    ``service.distillation.temperature`` has the rules for T_tea and T_stu.

    Source: arXiv 2404.12711, eq. 6.

    Args:
        teacher_logits: u, [N, K, ...].
        student_logits: v, [N, K, ...].
        section: the rule and its settings; its weight is not applied.
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes differ.
    """
    teacher, student, found = _matched(teacher_logits, student_logits, section, mask)
    divergences = kl_divergence(teacher / found.teacher, student / found.student)
    return found.weights * divergences


def _matched(
    teacher_logits: Tensor, student_logits: Tensor, section: Dtkd, mask: Tensor | None
) -> tuple[Tensor, Tensor, Temperatures]:
    rows = paired_rows(teacher_logits, student_logits, mask)
    teacher, student = map(standardized, rows) if section.standardize else rows
    return teacher, student, dynamic_temperatures(section, teacher, student)


class DtkdLoss(Loss):
    """``dtkd_loss`` with the section's settings."""

    section: Dtkd

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        return dtkd_loss(inputs.teacher, inputs.student, self.section, inputs.mask)

    def fused_term(self, inputs: LossInputs) -> SoftenedTerm | None:  # noqa: ARG002 - of others
        """Of logits that are not standardized."""
        return None if self.section.standardize else fused_dynamic_term(self.section)

    def telemetry(self, inputs: LossInputs) -> dict[str, Tensor]:
        """See ``temperature_telemetry``."""
        teacher, student, found = _matched(
            inputs.teacher, inputs.student, self.section, inputs.mask
        )
        return temperature_telemetry(found, teacher, student, self.section.base_temperature)
