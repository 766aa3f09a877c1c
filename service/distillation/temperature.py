"""Per-sample softmax temperatures that bring a teacher and a student to a common sharpness.

The method is DTKD, arXiv 2404.12711. With a base temperature tau, a sample gets tau + delta for the
teacher and tau - delta for the student. Three rules choose delta:

- ``max``: the closed form of the authors' released code, on the signed maximum logit of each side.
- ``norm``: the closed form as the paper prints it, on the largest absolute logit.
- ``logsumexp``: the paper's stated objective solved exactly, LSE(u / (tau + delta)) equal to
  LSE(v / (tau - delta)) on centered logits.

The authors' erratum of March 2025 withdraws the step from the objective to the closed form, so the
first two are max-logit matching: they make the two scaled maxima equal, and the logsumexp only
roughly so.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Sharpness = Literal["max", "norm", "logsumexp"]

# Newton steps of the exact rule. Twelve reach float64's resolution on every logit scale that was
# tried (1e-3 to 1e3); the count is fixed so that a GPU never waits to hear whether it is done.
NUM_ROOT_STEPS = 12


class Temperatures(NamedTuple):
    """One pair of temperatures per sample.

    ``teacher`` and ``student`` are [B, 1] and sum to twice the base temperature. ``clamped`` is
    [B], true where the rule did not hold on that sample's logits and the guard chose instead.
    """

    teacher: Tensor
    student: Tensor
    clamped: Tensor


def matched_temperatures(
    teacher_logits: Tensor,
    student_logits: Tensor,
    base_temperature: float,
    *,
    sharpness: Sharpness = "max",
    floor: float = 0.05,
) -> Temperatures:
    """Temperatures that make both distributions of each sample equally sharp.

    Logits are [B, K]; the arithmetic is float32 or wider whatever autocast says. Gradients flow
    to the student's logits only.

    A sample is guarded where the rule is broken: a sharpness that is not positive or not finite, or
    a teacher's share x / (x + y) outside [floor, 1 - floor]. Its logits are then centered and the
    share is clamped; where even that is undefined both sides get ``base_temperature``.

    Source: arXiv 2404.12711, eq. 5, with the erratum described at the top of this module.

    Raises:
        ValueError: shapes that differ, a base temperature that is not positive, a floor outside
            (0, 0.5), an unknown rule.
    """
    check_logits(teacher_logits, student_logits)
    check_temperature(base_temperature, "base_temperature")
    if not 0.0 < floor < 0.5:
        raise ValueError(f"floor is {floor}; it must lie between 0 and 0.5, for example 0.05")
    if sharpness not in get_args(Sharpness):
        raise ValueError(f"sharpness is {sharpness!r}; choose one of {get_args(Sharpness)}")
    with torch.autocast(device_type=student_logits.device.type, enabled=False):
        teacher = at_least_float32(teacher_logits.detach())
        student = at_least_float32(student_logits)
        if sharpness == "logsumexp":
            shares, clamped = _logsumexp_shares(teacher, student, base_temperature, floor)
        else:
            shares, clamped = _closed_form_shares(teacher, student, sharpness, floor)
        temperatures = (2.0 * base_temperature * shares).to(student.dtype)
    return Temperatures(temperatures[0][:, None], temperatures[1][:, None], clamped)


def check_logits(teacher_logits: Tensor, student_logits: Tensor) -> None:
    """Raise ValueError unless both are [B, K] of one shape."""
    if teacher_logits.ndim != 2 or teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"teacher logits are {tuple(teacher_logits.shape)} and student logits "
            f"{tuple(student_logits.shape)}; both must be [batch, classes] of one shape"
        )


def check_temperature(temperature: float, name: str) -> None:
    """Raise ValueError unless ``temperature`` is positive and finite."""
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"{name} is {temperature}; it must be positive and finite, for example 4")


def at_least_float32(logits: Tensor) -> Tensor:
    """Widen half precisions to float32; leave float32 and float64 alone."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def centered(logits: Tensor) -> Tensor:
    """Each sample's logits minus their class mean; softmax does not notice."""
    return logits - logits.mean(dim=1, keepdim=True)


def _closed_form_shares(
    teacher: Tensor, student: Tensor, sharpness: Sharpness, floor: float
) -> tuple[Tensor, Tensor]:
    """Shares x / (x + y) and y / (x + y) of the two temperatures, [2, B]; where guarded, [B]."""
    x, y = _largest(teacher, sharpness), _largest(student, sharpness)
    positive = (x > 0) & (y > 0) & torch.isfinite(x) & torch.isfinite(y)
    shares = _shares(x, y, positive)
    holds = positive & (shares >= floor).all(dim=0)

    x_centerd = _largest(centered(teacher), sharpness)
    y_centerd = _largest(centered(student), sharpness)
    total = x_centerd + y_centerd
    defined = (total > torch.finfo(total.dtype).tiny) & torch.isfinite(total)
    guarded = _shares(x_centerd, y_centerd, defined).clamp(floor, 1.0 - floor)
    return torch.where(holds, shares, guarded), ~holds


def _largest(logits: Tensor, sharpness: Sharpness) -> Tensor:
    magnitudes = logits.abs() if sharpness == "norm" else logits
    return magnitudes.max(dim=1).values


def _shares(x: Tensor, y: Tensor, where: Tensor) -> Tensor:
    """Both shares where allowed, one half elsewhere, with finite gradients everywhere.

    Each is a quotient of its own, not one minus the other: the smaller keeps all its digits.
    """
    ones = torch.ones_like(x)
    x, y = torch.where(where, x, ones), torch.where(where, y, ones)
    return torch.stack([x, y]) / (x + y)


def _logsumexp_shares(
    teacher: Tensor, student: Tensor, base_temperature: float, floor: float
) -> tuple[Tensor, Tensor]:
    """Shares (tau + delta) / (2 tau) and (tau - delta) / (2 tau) at the gap's root, [2, B] float64.

    On centered logits LSE(z / T) falls strictly with T, so the gap falls strictly with the share
    and has one root. Its derivative with respect to the student's logits comes from the implicit
    function theorem: one Newton step taken with the graph attached leaves the value where it is and
    carries exactly that derivative.
    """
    # Scaled so that the two temperatures are the share itself and its complement.
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
    # The step is finite on every sample, so the unused branch of `where` sends back no NaN.
    attached = share - _gap(u, v, share) / torch.where(holds, slope, -1.0)
    guarded = torch.where(below, low, torch.where(above, high, 0.5))
    guarded = torch.where(finite & varied, guarded, 0.5)
    share = torch.where(holds, attached, guarded)
    return torch.stack([share, 1.0 - share]), ~holds


def _find_root(u: Tensor, v: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Root of the gap in [low, high]: Newton's method, bisecting where that leaves it."""
    share = (u.amax(dim=1) / (u.amax(dim=1) + v.amax(dim=1)).clamp_min(1e-300)).clamp(low, high)
    for _ in range(NUM_ROOT_STEPS):
        gap = _gap(u, v, share)
        low, high = torch.where(gap > 0, share, low), torch.where(gap <= 0, share, high)
        newton = share - gap / _gap_slope(u, v, share)
        inside = (newton >= low) & (newton <= high)
        share = torch.where(inside, newton, 0.5 * (low + high))
    return share


def _gap(u: Tensor, v: Tensor, share: Tensor) -> Tensor:
    teacher = torch.logsumexp(u / share[:, None], dim=1)
    return teacher - torch.logsumexp(v / (1.0 - share)[:, None], dim=1)


def _gap_slope(u: Tensor, v: Tensor, share: Tensor) -> Tensor:
    """Derivative of the gap with respect to the share; negative, kept away from zero."""
    teacher, student = u / share[:, None], v / (1.0 - share)[:, None]
    teacher_part = (torch.softmax(teacher, dim=1) * teacher).sum(dim=1) / share
    student_part = (torch.softmax(student, dim=1) * student).sum(dim=1) / (1.0 - share)
    return -(teacher_part + student_part).clamp_min(1e-300)
