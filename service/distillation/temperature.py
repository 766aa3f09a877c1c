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

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from service.distillation.logits import at_least_float32, centered

Sharpness = Literal["max", "norm", "logsumexp"]

# Steps of the rule logsumexp, each of which reads the logits once. Four reach 1e-10 of it for logit
# scales from 1e-3 to 1e3, flat and spiky rows and 2 to 21,000 classes. The count is fixed because a
# convergence test would synchronize the GPU with the CPU.
NUM_ROOT_STEPS = 4
# Below this root mean square of scaled logits, the closed form for flat rows is exact to rounding.
FLAT_RMS = 1e-8
# From here on, exponentials are relative to the row's largest.
LARGE_LOGIT = 30.0


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
    x, x_centered = _largest(teacher, sharpness)
    y, y_centered = _largest(student, sharpness)
    positive = (x > 0) & (y > 0) & torch.isfinite(x) & torch.isfinite(y)
    shares = _shares(x, y, positive)
    holds = positive & (shares >= floor).all(dim=0)

    total = x_centered + y_centered
    defined = (total > torch.finfo(total.dtype).tiny) & torch.isfinite(total)
    fallback = _shares(x_centered, y_centered, defined).clamp(floor, 1.0 - floor)
    return torch.where(holds, shares, fallback), ~holds


def _largest(rows: Tensor, sharpness: Sharpness) -> tuple[Tensor, Tensor]:
    """The largest logit of each row, or the largest absolute one for ``norm``; [B].

    First that of the rows, then that of the centered ones, which are not built.
    """
    highest, mean = rows.max(dim=1).values, rows.mean(dim=1)
    if sharpness == "max":
        return highest, highest - mean
    lowest = rows.min(dim=1).values
    above, below = highest - mean, mean - lowest
    largest = torch.where(highest >= -lowest, highest, -lowest)
    return largest, torch.where(above >= below, above, below)


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
    LSE(u / T_tea) - LSE(v / T_stu) decreases strictly with the teacher's share and has at most one
    root. The root's derivative with respect to the student's logits follows from the implicit
    function theorem: that of LSE(v / T_stu), divided by the gap's with respect to the share.
    """
    # Divided by 2 tau, so that the temperatures of u and v are the share and its complement.
    u = centered(teacher.double()) / (2.0 * base_temperature)
    v = centered(student.double()) / (2.0 * base_temperature)
    finite = torch.isfinite(u).all(dim=1) & torch.isfinite(v).all(dim=1)
    # torch.where also propagates gradients, and so NaN, through the branch that is not selected.
    u = torch.where(finite[:, None], u, 0.0)
    v = torch.where(finite[:, None], v, 0.0)
    with torch.no_grad():
        share, holds = _find_root(u, v, floor)
    if torch.is_grad_enabled() and v.requires_grad:
        with torch.no_grad():
            slope = -(_pull(u, share) / share + _pull(v, 1.0 - share) / (1.0 - share))
        sharpness = torch.logsumexp(v / (1.0 - share)[:, None], dim=1)
        # The difference is 0: it has a gradient, and does not change the value.
        difference = (sharpness - sharpness.detach()) / torch.where(holds, slope, -1.0)
        share = share + torch.where(holds, difference, 0.0)
    return torch.stack([share, 1.0 - share]), ~holds


def _find_root(u: Tensor, v: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """The gap's root in [floor, 1 - floor] or the nearest bound, and whether it is a root; [B].

    Halley's method for log f(u / s) = log f(v / (1 - s)) over log(s / (1 - s)), where f = LSE -
    log K: in flat rows f is a square, in spiky ones nearly linear, and so its logarithm nearly
    straight. It starts from the solution for flat rows, whose f is determined by their variance.
    Steps that leave the bracket bisect it.
    """
    x, y = (torch.linalg.vector_norm(z, dim=1) / math.sqrt(z.shape[1]) for z in (u, v))
    highest = math.log((1.0 - floor) / floor)
    logit = torch.where((x > 0) | (y > 0), (x / y).log(), 0.0).clamp(-highest, highest)
    low, high = torch.full_like(logit, -highest), torch.full_like(logit, highest)
    is_flat = torch.minimum(x, y) < FLAT_RMS
    for _ in range(NUM_ROOT_STEPS):
        share = torch.sigmoid(logit)
        teacher, student = _log_sharpness(u, x, share), _log_sharpness(v, y, 1.0 - share)
        gap = teacher.value - student.value
        slope = -(1.0 - share) * teacher.first - share * student.first
        bend = (1.0 - share).square() * teacher.second - share.square() * student.second
        bend = bend + share * (1.0 - share) * (teacher.first - student.first)
        low, high = torch.where(gap > 0, logit, low), torch.where(gap <= 0, logit, high)
        halley = (1.0 - 0.5 * gap * bend / slope.square()).clamp(0.3, 3.0)
        found = logit - gap / (slope * halley)
        inside = torch.minimum(torch.maximum(found, low), high)
        is_kept = (inside == found) | (inside.abs() == highest)
        step = torch.where(is_kept, inside, 0.5 * (low + high))
        logit = torch.where(is_flat, logit, step)
    return torch.sigmoid(logit), (logit.abs() < highest) & ((x > 0) | (y > 0))


class _LogSharpness(NamedTuple):
    """log f of rows divided by their temperatures T, and its derivatives to -log T; all [B]."""

    value: Tensor
    first: Tensor
    second: Tensor


def _log_sharpness(rows: Tensor, rms: Tensor, temperatures: Tensor) -> _LogSharpness:
    """log f, f = LSE(z / T) - log K, of centered rows z [B, K] at temperatures T [B].

    ``rms``: root mean square of the rows, [B].
    """
    num_classes = rows.shape[1]
    scaled = rows / temperatures[:, None]
    shift = (scaled.amax(dim=1) - LARGE_LOGIT).clamp_min(0.0)
    # f is the mean of exp(x) - 1 where x is small, which loses no digits this way. In place: most
    # of the time would be spent on new tensors of this size.
    excess = (scaled - shift[:, None]).expm1_()
    mean = excess.mean(dim=1)
    total = 1.0 + mean
    value = (shift + torch.log1p(mean)).clamp_min(torch.finfo(rows.dtype).tiny)
    # Centered rows have the mean 0, so x exp(x) and x (exp(x) - 1) have the same mean.
    products = excess.mul_(scaled)
    first = products.mean(dim=1) / total
    squares = torch.linalg.vecdot(products, scaled) / num_classes + (rms / temperatures).square()
    second = squares / total - first.square()
    slope = first / value
    return _LogSharpness(value.log(), slope, (first + second) / value - slope.square())


def _pull(rows: Tensor, temperatures: Tensor) -> Tensor:
    """Expected logit z / T under softmax(z / T) for rows z [B, K] at temperatures T [B]; [B]."""
    scaled = rows / temperatures[:, None]
    return (torch.softmax(scaled, dim=1) * scaled).sum(dim=1)
