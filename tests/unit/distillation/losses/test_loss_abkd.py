"""Alpha-beta divergence against its formula and the limits of it."""

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

from service.distillation.losses.abkd import AbkdLoss, abkd_loss
from service.distillation.losses.base import Context, LossInputs
from service.distillation.losses.kd import kd_loss
from service.spec.losses.abkd import Abkd

EXPONENTS = [
    (0.8, 0.3),
    (0.9, 0.3),
    (0.5, 0.5),
    (2.0, 1.5),
    (1.0, 0.0),
    (0.0, 1.0),
    (0.6, 0.0),
    (0.0, 2.0),
    (0.0, 0.0),
]


def loss_of(u, v, alpha, beta, temperature=1.0):
    return abkd_loss(u, v, temperature, alpha=alpha, beta=beta)


@pytest.mark.parametrize(("alpha", "beta"), EXPONENTS)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equals_its_formula(alpha, beta, temperature):
    u, v, _ = random_logits(0)
    expected = by_sample(lambda a, b: oracles.abkd(a, b, temperature, alpha, beta), u, v)
    assert_equals_oracle(loss_of(u, v, alpha, beta, temperature), expected)
    assert_gradient(lambda a, b: loss_of(a, b, alpha, beta, temperature), u, v)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.7), (0.7, 0.0), (1.0, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_small_exponents_approach_the_limits(alpha, beta, dtype):
    """Without losing digits to the division by their product."""
    u, v, _ = (part.to(dtype) for part in random_logits(1))
    small = 1e-5 if dtype == torch.float64 else 1e-3
    expected = loss_of(u, v, alpha, beta, 4.0)
    found = loss_of(u, v, max(alpha, small), max(beta, small), 4.0)
    torch.testing.assert_close(found, expected, rtol=10 * small, atol=small)


def test_it_contains_kl_and_reverse_kl():
    u, v, _ = random_logits(2)
    torch.testing.assert_close(loss_of(u, v, 1.0, 0.0), kd_loss(u, v, 1.0))
    torch.testing.assert_close(loss_of(u, v, 0.0, 1.0), kd_loss(v, u, 1.0))


def test_exchanging_exponents_and_sides_changes_nothing():
    u, v, _ = random_logits(3)
    torch.testing.assert_close(loss_of(u, v, 0.8, 0.3), loss_of(v, u, 0.3, 0.8))


@pytest.mark.parametrize(("alpha", "beta"), EXPONENTS)
def test_it_is_least_where_the_student_is_the_teacher(alpha, beta):
    u, v, _ = random_logits(4)
    assert (loss_of(u, v, alpha, beta) > 0).all()
    student = u.clone().requires_grad_()
    found = loss_of(u, student, alpha, beta)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert found.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize(("alpha", "beta"), EXPONENTS)
def test_it_is_finite_for_saturated_predictions(alpha, beta):
    u = torch.tensor([[1e6, 0.0, 0.0], [0.0, 0.0, 0.0]])
    v = torch.tensor([[0.0, 1e6, 0.0], [-1e6, 0.0, 0.0]]).requires_grad_()
    found = loss_of(u, v, alpha, beta)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(v.grad).all()


@pytest.mark.parametrize("standardize", [False, True])
def test_the_section_gives_the_settings(standardize):
    u, v, labels = random_logits(5)
    section = Abkd(alpha=0.9, beta=0.3, temperature=2.0, standardize=standardize)

    def oracle(a, b):
        if standardize:
            a, b = oracles.standardize(a), oracles.standardize(b)
        return oracles.abkd(a, b, 2.0, 0.9, 0.3)

    found = AbkdLoss(section, Context(NUM_CLASSES, 1))(LossInputs(v, labels, 0, u))
    assert_equals_oracle(found, by_sample(oracle, u, v))


@pytest.mark.parametrize(("alpha", "beta"), [(-0.1, 0.3), (0.3, -0.1)])
def test_negative_exponents_are_refused(alpha, beta):
    u, v, _ = random_logits(6)
    with pytest.raises(ValueError, match="alpha"):
        loss_of(u, v, alpha, beta)
