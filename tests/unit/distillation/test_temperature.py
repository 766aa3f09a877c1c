"""Temperatures against independent float64 arithmetic: the released formula and a bisection."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.distillation.losses.dtkd import dtkd_loss
from service.distillation.temperature import matched_temperatures
from service.spec.losses.dtkd import Dtkd

TAU = 4.0
FLOOR = 0.05


def released_temperatures(u, v, tau):
    """The authors' formula in float64: signed maxima, no guards."""
    x, y = u.max(axis=1), v.max(axis=1)
    return 2 * x * tau / (x + y), 2 * y * tau / (x + y)


def logsumexp(z):
    top = z.max()
    return top + math.log(np.exp(z - top).sum())


def bisected_delta(u, v, tau):
    """Root of LSE(u / (tau + d)) - LSE(v / (tau - d)) on centered logits, by plain bisection."""
    u, v = u - u.mean(), v - v.mean()
    low, high = -tau * (1 - 1e-9), tau * (1 - 1e-9)
    for _ in range(200):
        middle = (low + high) / 2
        if logsumexp(u / (tau + middle)) - logsumexp(v / (tau - middle)) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def test_max_equals_released_code():
    generator = np.random.default_rng(0)
    u, v = generator.normal(0, 5, (500, 100)), generator.normal(0, 2, (500, 100))
    teacher, student = released_temperatures(u, v, TAU)
    found = matched_temperatures(
        torch.tensor(u, dtype=torch.float32), torch.tensor(v, dtype=torch.float32), TAU
    )
    assert not found.clamped.any()
    np.testing.assert_allclose(found.teacher[:, 0].numpy(), teacher, rtol=1e-6)
    np.testing.assert_allclose(found.student[:, 0].numpy(), student, rtol=1e-6)


def test_norm_takes_absolute_values():
    u = torch.tensor([[-9.0, 3.0, 1.0]])
    v = torch.tensor([[1.0, -3.0, 2.0]])
    found = matched_temperatures(u, v, TAU, sharpness="norm")
    # x = 9, y = 3: shares 3/4 and 1/4 of 8.
    assert found.teacher.item() == pytest.approx(6.0)
    assert found.student.item() == pytest.approx(2.0)
    assert not found.clamped.any()


@pytest.mark.parametrize(
    ("u", "v", "teacher"),
    [
        # Teacher's maximum positive, student's logits all negative; centered maxima are 4 and 2.
        ([6.0, 0.0, 0.0], [-3.0, -6.0, -6.0], 8 * 4 / 6),
        # x + y -> 0; centered maxima are 2 and 1.
        ([1.0, -2.0, -2.0], [-1.0, -2.5, -2.5], 8 * 2 / 3),
        # y = 0; centered maxima are 4 and 2.
        ([6.0, 0.0, 0.0], [0.0, -3.0, -3.0], 8 * 4 / 6),
        # x = y = 0 with all logits equal: nothing to match.
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], TAU),
        # x = y = 0 otherwise; centered maxima are 2 and 1.
        ([0.0, -3.0, -3.0], [0.0, -1.5, -1.5], 8 * 2 / 3),
        # Both maxima negative; centered maxima are 4 and 2, so the order is not inverted.
        ([-1.0, -7.0, -7.0], [-5.0, -8.0, -8.0], 8 * 4 / 6),
        # A share beyond the floor: centered maxima 300 and 1.
        ([450.0, 0.0, 0.0], [1.5, 0.0, 0.0], 8 * 0.95),
        ([math.inf, 0.0, 0.0], [1.0, 0.0, 0.0], TAU),
        ([math.nan, 0.0, 0.0], [1.0, 0.0, 0.0], TAU),
    ],
)
def test_degenerate_samples_are_guarded_and_reported(u, v, teacher):
    healthy_u, healthy_v = [5.0, 1.0, 0.0], [3.0, 0.0, 1.0]
    found = matched_temperatures(torch.tensor([u, healthy_u]), torch.tensor([v, healthy_v]), TAU)
    assert found.clamped.tolist() == [True, False]
    assert found.teacher[0].item() == pytest.approx(teacher, rel=1e-5)
    assert found.teacher[0].item() + found.student[0].item() == pytest.approx(2 * TAU)
    # The other sample of the batch is not affected: x = 5, y = 3.
    assert found.teacher[1].item() == pytest.approx(5.0)


def test_fresh_student_with_a_sharp_teacher_is_not_clamped():
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(1, 1000, generator=generator)
    u[0, 7] = 15.0
    v = 0.3 * torch.randn(1, 1000, generator=generator)
    v = v * (0.857 / v.max())
    found = matched_temperatures(u, v, TAU)
    assert not found.clamped.item()
    assert found.student.item() == pytest.approx(0.43, abs=0.01)
    assert found.teacher.item() == pytest.approx(7.57, abs=0.01)


@pytest.mark.parametrize("sharpness", ["max", "norm", "logsumexp"])
def test_guarded_losses_and_gradients_are_finite_and_not_negative(sharpness):
    teacher = torch.tensor([[6.0, 0, 0], [1, -2, -2], [6, 0, 0], [0, 0, 0], [-1, -7, -7]])
    student = torch.tensor([[-3.0, -6, -6], [-1, -2, -2], [0, -3, -3], [0, 0, 0], [-5, -8, -8]])
    student.requires_grad_()
    losses = dtkd_loss(teacher, student, Dtkd(base_temperature=TAU, sharpness=sharpness))
    losses.sum().backward()
    # Of equal predictions, up to rounding.
    assert (losses >= -1e-6).all()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 20.0])
@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_logsumexp_equals_bisection(scale, num_classes):
    generator = np.random.default_rng(1)
    u = generator.normal(0, 5, (20, num_classes))
    v = generator.normal(0, scale, (20, num_classes))
    found = matched_temperatures(
        torch.tensor(u, dtype=torch.float32),
        torch.tensor(v, dtype=torch.float32),
        TAU,
        sharpness="logsumexp",
    )
    num_inside = 0
    for index in range(20):
        teacher = TAU + bisected_delta(u[index], v[index], TAU)
        is_inside = FLOOR < teacher / (2 * TAU) < 1 - FLOOR
        assert found.clamped[index].item() == (not is_inside)
        expected = min(max(teacher, 2 * TAU * FLOOR), 2 * TAU * (1 - FLOOR))
        assert found.teacher[index].item() == pytest.approx(expected, abs=2e-5)
        num_inside += is_inside
    assert num_inside > 0 or scale == 0.1


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**31),
    st.floats(0.01, 30.0),
    st.floats(0.01, 30.0),
    st.sampled_from([2, 10, 300]),
)
def test_logsumexp_residual_is_within_tolerance(seed, teacher_scale, student_scale, num_classes):
    generator = torch.Generator().manual_seed(seed)
    u = teacher_scale * torch.randn(8, num_classes, generator=generator)
    v = student_scale * torch.randn(8, num_classes, generator=generator)
    found = matched_temperatures(u, v, TAU, sharpness="logsumexp")
    u, v = u.double(), v.double()
    teacher = torch.logsumexp((u - u.mean(1, keepdim=True)) / found.teacher.double(), 1)
    student = torch.logsumexp((v - v.mean(1, keepdim=True)) / found.student.double(), 1)
    residual = (teacher - student).abs()[~found.clamped]
    assert (residual <= 1e-5).all()


@pytest.mark.parametrize("sharpness", ["max", "norm", "logsumexp"])
def test_gradient_through_the_temperatures(sharpness):
    generator = torch.Generator().manual_seed(3)
    u = 4 * torch.randn(4, 7, generator=generator, dtype=torch.float64)
    v = torch.randn(4, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    section = Dtkd(base_temperature=TAU, sharpness=sharpness)
    assert torch.autograd.gradcheck(
        lambda student: dtkd_loss(u, student, section), (v,), eps=1e-6, atol=1e-6
    )
    assert torch.autograd.gradcheck(
        lambda student: matched_temperatures(u, student, TAU, sharpness=sharpness).student, (v,)
    )


def test_detached_gradient_is_that_of_constant_temperatures():
    generator = torch.Generator().manual_seed(4)
    u = 4 * torch.randn(6, 10, generator=generator, dtype=torch.float64)
    v = torch.randn(6, 10, generator=generator, dtype=torch.float64, requires_grad=True)
    dtkd_loss(u, v, Dtkd(base_temperature=TAU, detach=True)).mean().backward()
    teacher, student, _ = matched_temperatures(u, v.detach(), TAU)
    # d/dv of T_tea T_stu KL is T_tea (q - p), averaged over the batch.
    q, p = torch.softmax(v.detach() / student, 1), torch.softmax(u / teacher, 1)
    torch.testing.assert_close(v.grad, teacher * (q - p) / 6)
    assert v.grad.sum(dim=1).abs().max() < 1e-12


def test_half_precision_under_autocast_is_computed_in_float32():
    u = torch.tensor([[10.0, 1.0, 0.5]], dtype=torch.bfloat16)
    v = torch.tensor([[3.0, 1.0, 0.5]], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = matched_temperatures(u, v, TAU)
    assert found.teacher.dtype == torch.float32
    assert found.teacher.item() == pytest.approx(80 / 13, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"base_temperature": 0.0}, "base_temperature"),
        ({"base_temperature": math.inf}, "base_temperature"),
        ({"floor": 0.5}, "floor"),
        ({"sharpness": "entropy"}, "sharpness"),
    ],
)
def test_bad_arguments_are_named(options, word):
    logits = torch.ones(2, 3)
    with pytest.raises(ValueError, match=word):
        matched_temperatures(logits, logits, **{"base_temperature": TAU, **options})


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        matched_temperatures(torch.ones(2, 3), torch.ones(2, 4), TAU)


@pytest.mark.parametrize(
    ("u", "v", "teacher"),
    [
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], TAU),
        ([math.inf, 0.0, 0.0], [1.0, 0.0, 0.0], TAU),
        ([1.0, 0.0, 0.0], [math.nan, 0.0, 0.0], TAU),
        # No share within the floor makes a flat student as sharp as the teacher, or the reverse.
        ([9000.0, 0.0, 0.0], [1.0, 0.0, 0.0], 2 * TAU * 0.95),
        ([1.0, 0.0, 0.0], [9000.0, 0.0, 0.0], 2 * TAU * 0.05),
    ],
)
def test_samples_without_a_root_are_guarded_and_reported(u, v, teacher):
    found = matched_temperatures(
        torch.tensor([u]), torch.tensor([v]), TAU, sharpness="logsumexp", floor=0.05
    )
    assert found.clamped.tolist() == [True]
    assert found.teacher.item() == pytest.approx(teacher, rel=1e-5)
    assert found.student.item() == pytest.approx(2 * TAU - teacher, rel=1e-5)
