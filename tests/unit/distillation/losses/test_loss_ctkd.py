"""CTKD: the loss, its temperature, and the gradient that is reversed."""

import math

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
from service.distillation.losses.ctkd import (
    CtkdLoss,
    ctkd_loss,
    reversal_strength,
    reversed_gradient,
)
from service.spec.losses.ctkd import Ctkd


def build(num_epochs=240, **section):
    return CtkdLoss(Ctkd(**section), Context(NUM_CLASSES, num_epochs)).double()


def inputs_of(u, v, epoch=0):
    return LossInputs(v, torch.zeros(len(v), dtype=torch.long), epoch, u)


@pytest.mark.parametrize("temperature", [1.5, 8.0])
def test_equals_its_formula(temperature):
    u, v, _ = random_logits(0)
    value = torch.tensor([temperature], dtype=torch.float64)
    expected = by_sample(lambda a, b: oracles.kd(a, b, temperature), u, v)
    assert_equals_oracle(ctkd_loss(u, v, value), expected)
    assert_gradient(lambda a, b: ctkd_loss(a, b, value), u, v)


def test_gradient_to_the_temperature_is_that_of_finite_differences():
    u, v, _ = random_logits(1)
    temperature = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: ctkd_loss(u, v, value), (temperature,))


@pytest.mark.parametrize("standardize", [False, True])
def test_temperature_starts_at_theta_one(standardize):
    u, v, _ = random_logits(2)
    temperature = 2.0 + 10.0 / (1.0 + math.exp(-1.0))

    def oracle(a, b):
        return oracles.ls(a, b, temperature) if standardize else oracles.kd(a, b, temperature)

    loss = build(minimum=2.0, range=10.0, standardize=standardize)
    assert_equals_oracle(loss(inputs_of(u, v)), by_sample(oracle, u, v))


@pytest.mark.parametrize("epoch", [0, 4, 9, 100])
def test_gradient_to_theta_is_reversed_and_that_to_the_student_is_not(epoch):
    """Against finite differences of the loss's mean in theta."""
    u, v, _ = random_logits(3)
    loss, student = build(), v.clone().requires_grad_()
    loss(inputs_of(u, student, epoch)).mean().backward()

    def mean_at(theta):
        temperature = 1.0 + 20.0 / (1.0 + math.exp(-theta))
        return by_sample(lambda a, b: oracles.kd(a, b, temperature), u, v).mean().item()

    slope = (mean_at(1.0 + 1e-5) - mean_at(1.0 - 1e-5)) / 2e-5
    strength = 0.5 * (1.0 - math.cos(math.pi * min((epoch + 1) / 10, 1.0)))
    assert slope != 0.0
    assert loss.theta.grad.item() == pytest.approx(-strength * slope, rel=1e-5)
    fixed = v.clone().requires_grad_()
    ctkd_loss(u, fixed, loss.temperature(epoch).detach()).mean().backward()
    torch.testing.assert_close(student.grad, fixed.grad, rtol=1e-12, atol=1e-15)


def test_descent_makes_the_loss_larger():
    u, v, _ = random_logits(4)
    loss = build(ramp_epochs=0.0)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.05)
    values = []
    for _ in range(5):
        value = loss(inputs_of(u, v)).mean()
        values.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert values == sorted(values)
    assert values[-1] > values[0]


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reversal_leaves_values_bitwise_the_same(strength, dtype):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1000, dtype=dtype, generator=generator).requires_grad_()
    found = reversed_gradient(values, strength)
    assert torch.equal(found, values)
    (gradient,) = torch.autograd.grad(found.sum(), values)
    torch.testing.assert_close(gradient, torch.full_like(values, -strength))


def test_strength_rises_from_the_first_epoch_to_the_last_of_the_ramp():
    found = [reversal_strength(epoch, 10.0) for epoch in range(12)]
    expected = [0.5 * (1.0 - math.cos(math.pi * count / 10)) for count in range(1, 11)]
    assert found == pytest.approx([*expected, 1.0, 1.0], abs=1e-12)
    assert reversal_strength(0, 0.0) == 1.0
    assert reversal_strength(0, 0.5) == 1.0


@pytest.mark.parametrize(
    ("num_epochs", "section", "ramp"),
    [(240, {}, 10.0), (1000, {}, 10.0), (120, {}, 5.0), (240, {"ramp_epochs": 4.0}, 4.0)],
)
def test_ramp_has_a_default_of_at_most_ten_epochs(num_epochs, section, ramp):
    u, v, _ = random_logits(5)
    gradients = []
    for loss in (build(num_epochs, **section), build(ramp_epochs=ramp)):
        loss(inputs_of(u, v, epoch=1)).mean().backward()
        gradients.append(loss.theta.grad.item())
    assert gradients[0] == pytest.approx(gradients[1])
    full = build(ramp_epochs=0.0)
    full(inputs_of(u, v)).mean().backward()
    assert abs(gradients[0]) < 0.9 * abs(full.theta.grad.item())


def test_telemetry_has_the_temperature_of_each_position():
    u, v, _ = random_logits(6)
    columns = build().telemetry(inputs_of(u, v))
    assert set(columns) == {"temperature"}
    expected = torch.full((len(u),), 1.0 + 20.0 / (1.0 + math.exp(-1.0)), dtype=torch.float64)
    torch.testing.assert_close(columns["temperature"], expected)


def test_theta_is_trained_and_saved():
    loss = build()
    assert [name for name, _ in loss.named_parameters()] == ["theta"]
    assert loss.state_dict()["theta"].tolist() == [1.0]
