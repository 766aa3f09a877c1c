"""Losses of normalized logits, LS and NormKD, against their formulas."""

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
from service.distillation.losses.kd import KdLoss
from service.distillation.losses.ls import LsLoss, ls_loss
from service.distillation.losses.normkd import NormkdLoss, normkd_loss
from service.spec.losses.kd import Kd
from service.spec.losses.ls import Ls
from service.spec.losses.normkd import Normkd


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("num_classes", [2, 10])
def test_ls_equals_its_formula(temperature, num_classes):
    u, v, _ = random_logits(0, num_classes=num_classes)
    expected = by_sample(lambda a, b: oracles.ls(a, b, temperature), u, v)
    assert_equals_oracle(ls_loss(u, v, temperature), expected)
    assert_gradient(lambda a, b: ls_loss(a, b, temperature), u, v)


def test_ls_is_kd_of_standardized_logits():
    u, v, labels = random_logits(1)
    context, inputs = Context(NUM_CLASSES, 1), LossInputs(v, labels, 0, u)
    found = LsLoss(Ls(temperature=3.0), context)(inputs)
    assert torch.equal(found, KdLoss(Kd(temperature=3.0, standardize=True), context)(inputs))


def test_scale_of_the_logits_does_not_matter_to_ls():
    u, v, _ = random_logits(2)
    expected = ls_loss(u, v, 2.0)
    torch.testing.assert_close(ls_loss(7.0 * u, 0.2 * v, 2.0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("num_classes", [2, 10])
def test_normkd_equals_its_formula(scale, num_classes):
    u, v, _ = random_logits(3, num_classes=num_classes)
    expected = by_sample(lambda a, b: oracles.normkd(a, b, scale), u, v)
    assert_equals_oracle(normkd_loss(u, v, scale), expected)
    # Also through the student's standard deviation.
    assert_gradient(lambda a, b: normkd_loss(a, b, scale), u, v)


def test_scale_of_the_students_logits_does_not_matter_to_normkd():
    u, v, _ = random_logits(4)
    expected = normkd_loss(u, v, 2.0)
    torch.testing.assert_close(normkd_loss(u, 1e-3 * v, 2.0), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(normkd_loss(7.0 * u, v, 2.0), 49.0 * expected)


def test_logits_far_from_zero_keep_their_digits_in_normkd():
    """They are multiples of 1 / 64, so the number added to them is exact in float32."""
    u, v, _ = ((64 * part).round().float() / 64 for part in random_logits(8))
    found = normkd_loss(u + 4096.0, v + 4096.0, 2.0)
    expected = normkd_loss(u.double(), v.double(), 2.0).float()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_equal_logits_are_a_uniform_prediction_in_normkd():
    u, v, _ = random_logits(5)
    v[0], u[1] = 3.0, -2.0
    found = normkd_loss(u, v.requires_grad_(), 2.0)
    temperature = 2.0 * u[0].std()
    p = torch.softmax(u[0] / temperature, dim=0)
    expected = temperature**2 * (p * (p * NUM_CLASSES).log()).sum()
    assert found[0].item() == pytest.approx(expected.item(), rel=1e-12)
    assert found[1].item() == 0.0
    (gradient,) = torch.autograd.grad(found.sum(), v)
    assert (gradient[:2] == 0).all()
    assert (gradient[2:].abs().sum(dim=1) > 0).all()


def test_telemetry_of_normkd_has_its_temperatures():
    u, v, labels = random_logits(6)
    loss = NormkdLoss(Normkd(scale=1.5), Context(NUM_CLASSES, 1))
    columns = loss.telemetry(LossInputs(v, labels, 0, u))
    assert set(columns) == {"teacher_temperature", "student_temperature"}
    torch.testing.assert_close(columns["teacher_temperature"], 1.5 * u.std(dim=1))
    torch.testing.assert_close(columns["student_temperature"], 1.5 * v.std(dim=1))


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf")])
def test_bad_settings_are_refused(value):
    u, v, _ = random_logits(7)
    with pytest.raises(ValueError, match="scale"):
        normkd_loss(u, v, value)
    with pytest.raises(ValueError, match="temperature"):
        ls_loss(u, v, value)
