"""Rows of logits for fused losses, and their comparison with the plain functions in float64."""

import torch

from service.distillation.fused.terms import CrossEntropyTerm, Rows, SoftenedTerm
from service.distillation.losses.ce import cross_entropy
from service.distillation.losses.dtkd import dtkd_loss
from service.distillation.losses.kd import kd_loss
from service.spec.losses.dtkd import Dtkd

RULES = ("max", "norm", "logsumexp")
# One of DTKD's rules each, as it is most often used.
TERMS = {
    rule: [CrossEntropyTerm(0.1), SoftenedTerm(4.0, rule, 0.05), SoftenedTerm(3.0)]
    for rule in RULES
}
WEIGHTS = [1.0, 3.0, 0.5]


def random_rows(num_classes, num_rows=9, scales=(4.0, 1.5), seed=0, device="cpu"):
    """Rows of both sides, of which some have large offsets; labels, and weights of the rows."""
    generator = torch.Generator().manual_seed(seed)
    u, v = (scale * torch.randn(num_rows, num_classes, generator=generator) for scale in scales)
    # All logits of a side are negative: the closed forms need centered logits.
    u[num_rows // 3] -= 10.0 * scales[0]
    v[num_rows // 2] -= 10.0 * scales[1]
    labels = torch.randint(num_classes, (num_rows,), generator=generator)
    weights = torch.rand(num_rows, generator=generator)
    return Rows(*(tensor.to(device) for tensor in (v, u, labels, weights)))


def plain_losses(term, rows, dtype=torch.float64):
    """The term's loss of each row by the plain function, and the student's rows that it is of."""
    student = rows.student.to(dtype, copy=True).requires_grad_()
    if isinstance(term, CrossEntropyTerm):
        return cross_entropy(student, rows.labels, term.label_smoothing), student
    teacher = rows.teacher.to(dtype)
    if term.sharpness is None:
        losses = kd_loss(teacher, student, term.temperature)
    else:
        section = Dtkd(
            base_temperature=term.temperature,
            sharpness=term.sharpness,
            floor=term.floor,
            detach=term.detach,
        )
        losses = dtkd_loss(teacher, student, section)
    return (losses if rows.weights is None else rows.weights * losses), student


def plain_result(rows, terms, weights, dtype=torch.float64):
    """What a kernel returns, by the plain functions."""
    values, gradient = [], 0.0
    for term, weight in zip(terms, weights, strict=True):
        losses, student = plain_losses(term, rows, dtype)
        values.append(losses.mean().detach())
        gradient = gradient + torch.autograd.grad(weight * losses.mean(), student)[0]
    total = sum(weight * value for weight, value in zip(weights, values, strict=True))
    return torch.stack([*values, total]), gradient


def errors(found, expected, at_least=0.0):
    """Of the values, each relative to itself, and of the gradient, relative to its largest.

    Where these are less than ``at_least``, errors are relative to it.
    """
    values, gradient = (one.double() for one in found)
    by_value = (values - expected[0]).abs() / expected[0].abs().clamp_min(at_least)
    by_gradient = (gradient - expected[1]).abs() / expected[1].abs().max().clamp_min(at_least)
    return by_value.max().item(), by_gradient.max().item()


def assert_equals_plain(kernel, rows, terms, weights=None, tolerance=1e-5, at_least=0.0):
    """The kernel's means, weighted sum and gradient are those of the plain functions."""
    weights = [1.0] * len(terms) if weights is None else weights
    found = kernel(rows, terms, weights, with_gradient=True)
    by_value, by_gradient = errors(found, plain_result(rows, terms, weights), at_least)
    assert by_value <= tolerance, (terms, by_value)
    assert by_gradient <= tolerance, (terms, by_gradient)
    without = kernel(rows, terms, weights, with_gradient=False)
    assert without.gradient is None
    torch.testing.assert_close(without.values, found.values)


# What softmax does not define, in the student's or the teacher's row.
BROKEN = {
    "nan": [float("nan"), 1.0, 0.5],
    "infinite": [float("inf"), 1.0, 0.5],
    "one class left out": [-float("inf"), 1.0, 0.5],
    "all classes left out": [-float("inf")] * 3,
}


def assert_broken_rows_stay_alone(kernel, rule):
    """A broken row makes the loss what the plain function makes it, and no other row's gradient."""
    term = SoftenedTerm(4.0, rule, 0.05)
    healthy = random_rows(3)._replace(labels=None, weights=None)
    alone = kernel(healthy, [term], [1.0], with_gradient=True).gradient
    for values in BROKEN.values():
        row = torch.tensor([values])
        for side in ("student", "teacher"):
            whole = torch.cat([getattr(healthy, side), row])
            other = "teacher" if side == "student" else "student"
            rest = torch.cat([getattr(healthy, other), torch.tensor([[2.0, 1.0, 0.5]])])
            rows = Rows(**{side: whole, other: rest}, labels=None, weights=None)
            found = kernel(rows, [term], [1.0], with_gradient=True)
            expected, _ = plain_result(rows, [term], [1.0])
            assert torch.equal(found.values.isnan(), expected.isnan()), (values, side)
            assert torch.equal(found.values.isinf(), expected.isinf()), (values, side)
            num_rows = len(whole)
            others = found.gradient[:-1] * num_rows / (num_rows - 1)
            torch.testing.assert_close(others, alone, rtol=1e-5, atol=1e-7)
