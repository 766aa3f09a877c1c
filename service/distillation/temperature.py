"""Per-sample softmax temperatures that make a teacher and a student equally sharp.

The method is DTKD, arXiv 2404.12711. With a base temperature tau, the teacher's temperature is
T_tea = tau + delta and the student's T_stu = tau - delta. For a sample with teacher logits u and
student logits v, one of three rules chooses delta:

- ``max``: T_tea = 2 tau x / (x + y) and T_stu = 2 tau y / (x + y), where x and y are the largest
  logits of u and v: the closed form in the authors' released code.
- ``norm``: the same with the largest absolute logits, as printed in the paper.
- ``logsumexp``: the numerical solution of LSE(u / T_tea) = LSE(v / T_stu) on centered logits, which
  is the objective stated in the paper.

The authors' erratum of March 2025 withdraws the derivation of the closed form from the objective.
``max`` and ``norm`` therefore make the scaled maxima equal, and the logsumexps only approximately.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from service.distillation.logits import at_least_float32, centered

Sharpness = Literal["max", "norm", "logsumexp"]

# Newton steps of the rule logsumexp. Twelve reach float64 resolution for logit scales from 1e-3 to
# 1e3. The count is fixed because a convergence test would synchronize the GPU with the CPU.
NUM_ROOT_STEPS = 12


class Temperatures(NamedTuple):
    """One pair of temperatures per sample, or one for all.

    ``teacher`` and ``student`` are [B, 1], or [1, 1] for all. ``clamped`` is [B] or [1], True where
    the rule is undefined for the sample's logits and the fallback was used.
    """

    teacher: Tensor
    student: Tensor
    clamped: Tensor

    @property
    def weights(self) -> Tensor:
        """T_tea T_stu of each sample, [B] or [1]."""
        return (self.teacher * self.student)[:, 0]


def matched_temperatures(
    teacher_logits: Tensor,
    student_logits: Tensor,
    base_temperature: float,
    *,
    sharpness: Sharpness = "max",
    floor: float = 0.05,
) -> Temperatures:
    """Temperatures that make teacher and student equally sharp on each sample.

    Computed in float32 or wider even under autocast. Gradients flow to the student's logits only.

    A sample uses the fallback where the rule is undefined: x or y is not positive and finite, or
    the teacher's share T_tea / (2 tau) is outside [floor, 1 - floor]. The closed forms are then
    applied to centered logits, and the share is clamped to this range. Where that is undefined too,
    both temperatures are ``base_temperature``.

    Source: arXiv 2404.12711, eq. 5, with the erratum described at the top of this module.

    The two temperatures of a sample sum to 2 ``base_temperature``.

    Args:
        teacher_logits: u, [B, K].
        student_logits: v, [B, K].
        base_temperature: tau.
        sharpness: the rule; see the top of this module.
        floor: smallest share of either temperature in their sum 2 tau, in (0, 0.5).

    Raises:
        ValueError: the shapes differ, the base temperature is not positive and finite, the floor is
            outside (0, 0.5), or the rule does not exist.
    """
    check_logits(teacher_logits, student_logits)
    check_temperature(base_temperature, "base_temperature")
    if not 0.0 < floor < 0.5:
        raise ValueError(f"floor is {floor}; it must lie between 0 and 0.5, for example 0.05")
    if sharpness not in get_args(Sharpness):
        raise ValueError(f"sharpness is {sharpness!r}; choose one of {get_args(Sharpness)}")
    teacher = at_least_float32(teacher_logits.detach())
    student = at_least_float32(student_logits)
    if sharpness == "logsumexp":
        shares, clamped = _logsumexp_shares(teacher, student, base_temperature, floor)
    else:
        shares, clamped = _closed_form_shares(teacher, student, sharpness, floor)
    temperatures = (2.0 * base_temperature * shares).to(student.dtype)
    return Temperatures(temperatures[0][:, None], temperatures[1][:, None], clamped)


def check_logits(teacher_logits: Tensor, student_logits: Tensor) -> None:
    """Check that both have the same shape [B, K].

    Raises:
        ValueError: they do not.
    """
    if teacher_logits.ndim != 2 or teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"teacher logits are {tuple(teacher_logits.shape)} and student logits "
            f"{tuple(student_logits.shape)}; both must be [batch, classes] of one shape"
        )


def check_temperature(temperature: float, name: str) -> None:
    """Check that ``temperature`` is positive and finite; ``name`` is for the message.

    Raises:
        ValueError: it is not.
    """
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"{name} is {temperature}; it must be positive and finite, for example 4")


def _closed_form_shares(
    teacher: Tensor, student: Tensor, sharpness: Sharpness, floor: float
) -> tuple[Tensor, Tensor]:
    """Shares x / (x + y) and y / (x + y) of the two temperatures, [2, B]; fallback mask, [B]."""
    x, y = _largest(teacher, sharpness), _largest(student, sharpness)
    positive = (x > 0) & (y > 0) & torch.isfinite(x) & torch.isfinite(y)
    shares = _shares(x, y, positive)
    holds = positive & (shares >= floor).all(dim=0)

    x_centered = _largest(centered(teacher), sharpness)
    y_centered = _largest(centered(student), sharpness)
    total = x_centered + y_centered
    defined = (total > torch.finfo(total.dtype).tiny) & torch.isfinite(total)
    fallback = _shares(x_centered, y_centered, defined).clamp(floor, 1.0 - floor)
    return torch.where(holds, shares, fallback), ~holds


def _largest(logits: Tensor, sharpness: Sharpness) -> Tensor:
    """The largest logit of each sample, or the largest absolute one for ``norm``; [B]."""
    magnitudes = logits.abs() if sharpness == "norm" else logits
    return magnitudes.max(dim=1).values


def _shares(x: Tensor, y: Tensor, where: Tensor) -> Tensor:
    """Both shares, [2, B], one half where ``where`` is False; gradients are finite everywhere.

    Each share is divided separately: one minus the larger would lose digits of the smaller.
    """
    ones = torch.ones_like(x)
    x, y = torch.where(where, x, ones), torch.where(where, y, ones)
    return torch.stack([x, y]) / (x + y)


def _logsumexp_shares(
    teacher: Tensor, student: Tensor, base_temperature: float, floor: float
) -> tuple[Tensor, Tensor]:
    """Shares T_tea / (2 tau) and T_stu / (2 tau) at the gap's root, [2, B]; fallback mask, [B].

    Shares are float64. On centered logits LSE(z / T) decreases strictly with T, so the gap
    decreases strictly with the teacher's share and has at most one root. The root's derivative with
    respect to the student's logits follows from the implicit function theorem: one Newton step from
    the root, computed with the graph, does not change the value and has exactly this derivative.
    """
    # Divided by 2 tau, so that the temperatures of u and v are the share and its complement.
    u = centered(teacher.double()) / (2.0 * base_temperature)
    v = centered(student.double()) / (2.0 * base_temperature)
    finite = torch.isfinite(u).all(dim=1) & torch.isfinite(v).all(dim=1)
    u = torch.where(finite[:, None], u, 0.0)
    v = torch.where(finite[:, None], v, 0.0)

    with torch.no_grad():
        low, high = torch.full_like(u[:, 0], floor), torch.full_like(u[:, 0], 1.0 - floor)
        below, above = _gap(u, v, low) < 0, _gap(u, v, high) > 0
        varied = (u.amax(dim=1) > 0) | (v.amax(dim=1) > 0)
        share = _find_root(u, v, low, high)
        slope = _gap_slope(u, v, share)
    holds = finite & varied & ~below & ~above
    # The step must be finite on every sample: torch.where also propagates gradients, and so NaN,
    # through the branch that is not selected.
    attached = share - _gap(u, v, share) / torch.where(holds, slope, -1.0)
    fallback = torch.where(below, low, torch.where(above, high, 0.5))
    fallback = torch.where(finite & varied, fallback, 0.5)
    share = torch.where(holds, attached, fallback)
    return torch.stack([share, 1.0 - share]), ~holds


def _find_root(u: Tensor, v: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Root of the gap, [B]: Newton's method, with bisection for steps outside [low, high]."""
    share = (u.amax(dim=1) / (u.amax(dim=1) + v.amax(dim=1)).clamp_min(1e-300)).clamp(low, high)
    for _ in range(NUM_ROOT_STEPS):
        gap = _gap(u, v, share)
        low, high = torch.where(gap > 0, share, low), torch.where(gap <= 0, share, high)
        newton = share - gap / _gap_slope(u, v, share)
        inside = (newton >= low) & (newton <= high)
        share = torch.where(inside, newton, 0.5 * (low + high))
    return share


def _gap(u: Tensor, v: Tensor, share: Tensor) -> Tensor:
    """LSE(u / share) - LSE(v / (1 - share)) of each sample, [B]."""
    teacher = torch.logsumexp(u / share[:, None], dim=1)
    return teacher - torch.logsumexp(v / (1.0 - share)[:, None], dim=1)


def _gap_slope(u: Tensor, v: Tensor, share: Tensor) -> Tensor:
    """Derivative of the gap with respect to the share, [B]; negative and bounded away from 0."""
    teacher, student = u / share[:, None], v / (1.0 - share)[:, None]
    teacher_part = (torch.softmax(teacher, dim=1) * teacher).sum(dim=1) / share
    student_part = (torch.softmax(student, dim=1) * student).sum(dim=1) / (1.0 - share)
    return -(teacher_part + student_part).clamp_min(1e-300)
