"""What losses of softened predictions share: rows of logits, and temperatures by a rule."""

from torch import Tensor

from service.distillation.logits import label_rows, paired_rows, standardized
from service.distillation.losses.base import Loss, LossInputs
from service.distillation.softening import temperature_telemetry, temperatures_by
from service.distillation.temperature import Temperatures
from service.spec.losses.temperatures import (
    DynamicTemperatures,
    SoftenedLoss,
    TeacherMaxTemperature,
)


class SoftenedRows(Loss):
    """A loss between rows that are standardized if the section says so, then softened."""

    section: SoftenedLoss

    def rows(self, inputs: LossInputs) -> tuple[Tensor, Tensor, Temperatures]:
        """Teacher and student rows [P, K], and the temperatures to divide them by."""
        rows = paired_rows(inputs.teacher, inputs.student, inputs.mask)
        teacher, student = map(standardized, rows) if self.section.standardize else rows
        rule = self.section.temperature
        found = temperatures_by(rule, teacher, student, inputs.epoch, self.context.num_epochs)
        return teacher, student, found

    def labels(self, inputs: LossInputs) -> Tensor:
        """The labels of these rows, [P]."""
        return label_rows(inputs.labels, inputs.student, inputs.mask)

    def telemetry(self, inputs: LossInputs) -> dict[str, Tensor]:
        """What the section's rule chooses; nothing about a number.

        temperature: of a schedule. sample_temperature: of each position, where both sides have the
        same; clamped_share: 1 where it is the rule's minimum, else 0. For a pair: see
        ``temperature_telemetry``.
        """
        rule = self.section.temperature
        if isinstance(rule, float):
            return {}
        teacher, student, found = self.rows(inputs)
        if isinstance(rule, DynamicTemperatures):
            return temperature_telemetry(found, teacher, student, rule.base_temperature)
        if isinstance(rule, TeacherMaxTemperature):
            clamped = found.clamped.float()
            return {"sample_temperature": found.teacher[:, 0], "clamped_share": clamped}
        return {"temperature": found.teacher[:, 0].expand(len(teacher))}
