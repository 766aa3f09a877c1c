"""The softmax temperatures of a loss, by the rule that its section names."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from service.distillation.fused.terms import SoftenedTerm
from service.distillation.logits import centered, paired_rows
from service.distillation.temperature import (
    Temperatures,
    check_temperature,
    matched_temperatures,
)
from service.spec.losses.dtkd import Dtkd
from service.spec.losses.temperatures import (
    CosineTemperature,
    DynamicTemperatures,
    TeacherMaxTemperature,
    TemperatureRule,
    TemperatureSchedule,
)


class Softened(NamedTuple):
    """Rows of both sides divided by their temperatures, [P, K].

    ``weights``: T_tea T_stu, [P] or [1]; T^2 where both are T. They keep the gradient's scale
    roughly independent of the temperatures.
    """

    teacher: Tensor
    student: Tensor
    weights: Tensor


def soften(
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float | Temperatures,
    mask: Tensor | None = None,
) -> Softened:
    """Divide logits [N, K, ...] by one temperature, or by those of each row; see ``paired_rows``.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive and finite.
    """
    teacher, student = paired_rows(teacher_logits, student_logits, mask)
    if not isinstance(temperature, Temperatures):
        check_temperature(temperature, "temperature")
        temperature = constant_temperatures(temperature, teacher)
    return Softened(
        teacher / temperature.teacher, student / temperature.student, temperature.weights
    )


def constant_temperatures(temperature: float, rows: Tensor) -> Temperatures:
    """The same temperature for both sides of all rows."""
    constant = rows.new_full((1, 1), temperature)
    return Temperatures(constant, constant, torch.zeros(1, dtype=torch.bool, device=rows.device))


def temperatures_by(
    rule: TemperatureRule, teacher: Tensor, student: Tensor, epoch: int, num_epochs: int
) -> Temperatures:
    """Temperatures of teacher and student rows [P, K] in an epoch, counted from 0.

    They are [P, 1] where each sample has its own, otherwise [1, 1].
    """
    if isinstance(rule, DynamicTemperatures):
        return dynamic_temperatures(rule, teacher, student)
    if isinstance(rule, TeacherMaxTemperature):
        largest = centered(teacher).amax(dim=1, keepdim=True)
        temperature = (largest / rule.scaled_max).clamp_min(rule.minimum)
        return Temperatures(temperature, temperature, temperature[:, 0] == rule.minimum)
    return constant_temperatures(_temperature_in(rule, epoch, num_epochs), teacher)


def fused_term_by(rule: TemperatureRule, epoch: int, num_epochs: int) -> SoftenedTerm | None:
    """The softened divergence at the rule's temperatures; None where they depend on the teacher."""
    if isinstance(rule, DynamicTemperatures):
        return fused_dynamic_term(rule)
    if isinstance(rule, TeacherMaxTemperature):
        return None
    return SoftenedTerm(_temperature_in(rule, epoch, num_epochs))


def _temperature_in(rule: float | TemperatureSchedule, epoch: int, num_epochs: int) -> float:
    return scheduled(rule, epoch, num_epochs) if isinstance(rule, TemperatureSchedule) else rule


def dynamic_temperatures(
    rule: DynamicTemperatures | Dtkd, teacher: Tensor, student: Tensor
) -> Temperatures:
    """DTKD's pair of temperatures for each row, constants in the gradient if the rule detaches."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and not rule.detach):
        return matched_temperatures(
            teacher,
            student,
            rule.base_temperature,
            sharpness=rule.sharpness,
            floor=rule.floor,
        )


def fused_dynamic_term(rule: DynamicTemperatures | Dtkd) -> SoftenedTerm:
    """The softened divergence at ``dynamic_temperatures``."""
    return SoftenedTerm(rule.base_temperature, rule.sharpness, rule.floor, rule.detach)


def scheduled(schedule: TemperatureSchedule, epoch: int, num_epochs: int) -> float:
    """The temperature in an epoch, counted from 0: start in the first one, end in the last."""
    progress = epoch / max(num_epochs - 1, 1)
    if isinstance(schedule, CosineTemperature):
        progress = 0.5 * (1.0 - math.cos(math.pi * progress))
    return schedule.start + (schedule.end - schedule.start) * progress


@torch.no_grad()
def temperature_telemetry(
    temperatures: Temperatures, teacher: Tensor, student: Tensor, base_temperature: float
) -> dict[str, Tensor]:
    """Columns [P] that describe how well temperatures match teacher and student rows [P, K].

    teacher_temperature, student_temperature: of each sample. gap_after: |LSE(u / T_tea) -
    LSE(v / T_stu)| of centered teacher logits u and student logits v. gap_before: the same with
    ``base_temperature`` for both. clamped_share: 1 where the temperatures were clamped, else 0.
    """
    u, v = centered(teacher), centered(student)

    def gap(teacher_temperature: Tensor | float, student_temperature: Tensor | float) -> Tensor:
        sharpness = torch.logsumexp(u / teacher_temperature, dim=1)
        return (sharpness - torch.logsumexp(v / student_temperature, dim=1)).abs()

    return {
        "teacher_temperature": temperatures.teacher[:, 0],
        "student_temperature": temperatures.student[:, 0],
        "gap_before": gap(base_temperature, base_temperature),
        "gap_after": gap(temperatures.teacher, temperatures.student),
        "clamped_share": temperatures.clamped.float(),
    }
