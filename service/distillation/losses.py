"""Distillation losses on logits. Pure functions, float32 or wider whatever autocast says."""

import torch
import torch.nn.functional as F
from torch import Tensor

from service.distillation.temperature import (
    Sharpness,
    Temperatures,
    at_least_float32,
    check_logits,
    check_temperature,
    matched_temperatures,
)


def kd_loss(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """Mean over the batch of T^2 KL(softmax(u / T) || softmax(v / T)); logits are [B, K].

    Source: Hinton et al., arXiv 1503.02531. No gradient reaches the teacher.

    Raises:
        ValueError: shapes that differ, a temperature that is not positive.
    """
    check_logits(teacher_logits, student_logits)
    check_temperature(temperature, "temperature")
    with torch.autocast(device_type=student_logits.device.type, enabled=False):
        teacher = at_least_float32(teacher_logits.detach()) / temperature
        student = at_least_float32(student_logits) / temperature
        return _kl_divergence(teacher, student).mean() * temperature**2


def dtkd_loss(
    teacher_logits: Tensor,
    student_logits: Tensor,
    base_temperature: float,
    *,
    sharpness: Sharpness = "max",
    detach: bool = False,
    floor: float = 0.05,
) -> Tensor:
    """Mean over the batch of T_tea T_stu KL(softmax(u / T_tea) || softmax(v / T_stu)).

    Logits are [B, K]; the temperatures are those of ``matched_temperatures``. With ``detach`` they
    are constants; without, the gradient also flows through the student's sharpness, as it does in
    the authors' released code.

    Source: arXiv 2404.12711, eq. 6.

    Raises:
        ValueError: as ``matched_temperatures``.
    """
    temperatures = matched_temperatures(
        teacher_logits, student_logits, base_temperature, sharpness=sharpness, floor=floor
    )
    if detach:
        temperatures = temperatures._replace(
            student=temperatures.student.detach(), teacher=temperatures.teacher.detach()
        )
    return dtkd_loss_at(teacher_logits, student_logits, temperatures)


def dtkd_loss_at(
    teacher_logits: Tensor, student_logits: Tensor, temperatures: Temperatures
) -> Tensor:
    """The DTKD loss at temperatures that are already known; see ``dtkd_loss``."""
    with torch.autocast(device_type=student_logits.device.type, enabled=False):
        teacher = at_least_float32(teacher_logits.detach()) / temperatures.teacher
        student = at_least_float32(student_logits) / temperatures.student
        weights = (temperatures.teacher * temperatures.student)[:, 0]
        return (weights * _kl_divergence(teacher, student)).mean()


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of [B, K] logits against [B] labels, in float32 or wider."""
    with torch.autocast(device_type=logits.device.type, enabled=False):
        return F.cross_entropy(at_least_float32(logits), labels, label_smoothing=label_smoothing)


def _kl_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) of each sample, [B]."""
    log_p, log_q = F.log_softmax(teacher, dim=1), F.log_softmax(student, dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)
