"""Distillation losses: pure functions of logits, computed in float32 or wider even under autocast.

Autocast lowers the precision of matrix products and convolutions only, and none is used here.
Notation: u are teacher logits, v student logits, both [B, K] for B samples and K classes. KL is in
nats.
"""

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
    """Knowledge distillation: mean over the batch of T^2 KL(softmax(u / T) || softmax(v / T)).

    T^2 keeps the gradient's scale roughly independent of the temperature. No gradient flows to the
    teacher's logits.

    Source: Hinton et al., arXiv 1503.02531, section 2.

    Args:
        teacher_logits: u, [B, K].
        student_logits: v, [B, K].
        temperature: T, the same for both.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive and finite.
    """
    check_logits(teacher_logits, student_logits)
    check_temperature(temperature, "temperature")
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
    """DTKD: mean over the batch of T_tea T_stu KL(softmax(u / T_tea) || softmax(v / T_stu)).

    T_tea and T_stu are computed for each sample by ``matched_temperatures``.

    Source: arXiv 2404.12711, eq. 6.

    Args:
        teacher_logits: u, [B, K].
        student_logits: v, [B, K].
        base_temperature: half the sum of T_tea and T_stu.
        sharpness: the rule for the temperatures; see ``service.distillation.temperature``.
        detach: treat the temperatures as constants. Otherwise the gradient also flows through the
            student's sharpness, as in the authors' released code.
        floor: smallest share of either temperature in their sum.

    Returns:
        A scalar.

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
    """The DTKD loss at given temperatures: ``dtkd_loss`` without ``matched_temperatures``.

    Logits are [B, K] and are not checked. Returns a scalar.
    """
    teacher = at_least_float32(teacher_logits.detach()) / temperatures.teacher
    student = at_least_float32(student_logits) / temperatures.student
    weights = (temperatures.teacher * temperatures.student)[:, 0]
    return (weights * _kl_divergence(teacher, student)).mean()


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits [B, K] and integer labels [B]; returns a scalar.

    ``label_smoothing`` in [0, 1] is the weight of the uniform distribution in the targets.
    """
    return F.cross_entropy(at_least_float32(logits), labels, label_smoothing=label_smoothing)


def _kl_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) of each sample, [B], of logits already scaled."""
    log_p, log_q = F.log_softmax(teacher, dim=1), F.log_softmax(student, dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)
