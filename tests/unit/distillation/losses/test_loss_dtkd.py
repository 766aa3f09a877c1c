"""DTKD against the released code's formula in float64, written out sample by sample."""

import pytest
import torch
from support import loss_oracles as oracles
from support.loss_inputs import (
    NUM_CLASSES,
    assert_equals_oracle,
    assert_gradient,
    by_sample,
    random_logits,
)

from service.distillation.losses.base import Context, LossInputs
from service.distillation.losses.dtkd import DtkdLoss, dtkd_loss
from service.spec.losses.dtkd import Dtkd

TAU = 4.0
SECTION = Dtkd(base_temperature=TAU, floor=0.001)


def released_loss(u, v):
    """The authors' code: signed maxima, T_tea T_stu KL."""
    return oracles.kd(u, v, *oracles.released_temperatures(u, v, TAU))


def test_equals_released_code():
    u, v, _ = random_logits(0)
    assert_equals_oracle(dtkd_loss(u, v, SECTION), by_sample(released_loss, u, v))
    found = dtkd_loss(u.float(), v.float(), SECTION)
    expected = by_sample(released_loss, u, v).float()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_gradient_equals_released_code():
    u, v, _ = random_logits(1)
    student = v.clone().requires_grad_()
    dtkd_loss(u, student, SECTION).sum().backward()
    for row, column in ((0, int(v[0].argmax())), (0, int(v[0].argmin())), (9, 3)):
        high, low = v.clone(), v.clone()
        high[row, column] += 1e-5
        low[row, column] -= 1e-5
        slope = by_sample(released_loss, u, high).sum() - by_sample(released_loss, u, low).sum()
        expected = slope.item() / 2e-5
        assert student.grad[row, column].item() == pytest.approx(expected, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("sharpness", ["max", "norm", "logsumexp"])
@pytest.mark.parametrize("standardize", [False, True])
def test_gradient_is_that_of_finite_differences(sharpness, standardize):
    u, v, _ = random_logits(2)
    section = Dtkd(sharpness=sharpness, standardize=standardize)
    assert_gradient(lambda a, b: dtkd_loss(a, b, section), u, v)


def test_standardized_logits_are_those_of_the_formula():
    u, v, _ = random_logits(3)

    def oracle(a, b):
        return released_loss(oracles.standardize(a), oracles.standardize(b))

    section = SECTION.model_copy(update={"standardize": True})
    assert_equals_oracle(dtkd_loss(u, v, section), by_sample(oracle, u, v))


def test_no_gradient_reaches_the_teacher():
    u, v = (part.requires_grad_() for part in random_logits(4)[:2])
    dtkd_loss(u, v, SECTION).sum().backward()
    assert u.grad is None
    assert v.grad.abs().sum() > 0


def test_loss_of_equal_logits_is_zero():
    u, _, _ = random_logits(5)
    assert dtkd_loss(u.float(), u.float(), SECTION).abs().max() < 1e-6


def test_under_autocast_it_is_computed_in_float32():
    """Half-precision logits are exact in float32: so is the loss, whatever autocast is on."""
    u, v = (part.bfloat16() for part in random_logits(6)[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = dtkd_loss(u, v, SECTION)
    assert found.dtype == torch.float32
    expected = dtkd_loss(u.double(), v.double(), SECTION)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_telemetry_has_the_temperatures_of_the_loss():
    u, v, labels = random_logits(7)
    loss = DtkdLoss(SECTION, Context(NUM_CLASSES, 1))
    columns = loss.telemetry(LossInputs(v, labels, 0, u))
    teacher = by_sample(lambda a, b: oracles.released_temperatures(a, b, TAU)[0], u, v)
    torch.testing.assert_close(columns["teacher_temperature"], teacher)
    torch.testing.assert_close(columns["student_temperature"], 2 * TAU - teacher)
    assert columns["clamped_share"].sum() == 0
