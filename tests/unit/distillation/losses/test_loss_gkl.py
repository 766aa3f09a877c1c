"""GKL against its formula with all pairs of classes."""

import pytest
import torch
from support.gkl_oracle import brute_force, oracle
from support.logit_cases import build_loss, inputs_of, random_labels, random_logits, softmax

from service.distillation.losses.gkl import gkl_loss, pairwise_differences
from service.spec.losses.gkl import Gkl

NUM_CLASSES = 17


@pytest.fixture
def logits():
    return random_logits(12, NUM_CLASSES)


@pytest.fixture
def shares():
    return torch.softmax(random_logits(12, NUM_CLASSES, count=1, seed=9)[0], dim=1)


@pytest.mark.parametrize(
    "section",
    [
        Gkl(),
        Gkl(alpha=3.0, beta=20.0, gamma=0.3, temperature=4.0),
        Gkl(gamma=0.0),
        Gkl(gamma=2.0),
    ],
)
def test_equals_its_formula(logits, shares, section):
    u, v = logits
    expected = oracle(u.numpy(), v.numpy(), shares.numpy(), section)
    assert gkl_loss(u, v, shares, section).mean().item() == pytest.approx(expected, rel=1e-10)
    single = gkl_loss(u.float(), v.float(), shares.float(), section)
    assert single.mean().item() == pytest.approx(expected, rel=1e-6)


def test_gradient_equals_that_of_all_pairs(logits, shares):
    u, v = logits
    v.requires_grad_()
    weights = shares**0.6
    pair_weights = weights[:, :, None] * weights[:, None, :]
    d = u - v
    squares = pair_weights * (d[:, :, None] - d[:, None, :]).square()
    (expected,) = torch.autograd.grad(0.25 * squares.sum() / pair_weights.sum(), v)
    (found,) = torch.autograd.grad(pairwise_differences(u, v, shares, 0.6), v)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("offset", [0.0, 100.0, 10_000.0])
def test_offset_between_teacher_and_student_costs_no_digits(logits, shares, offset):
    """Float32 logits that are exact in float64: what differs is the arithmetic."""
    u, v = (part.float() for part in logits)
    v = v + offset
    expected = brute_force(u.double().numpy(), v.double().numpy(), shares.numpy(), 0.6)
    found = pairwise_differences(u, v, shares.float(), 0.6)
    assert found.mean().item() == pytest.approx(expected, rel=1e-6)


def test_large_powers_do_not_underflow(logits):
    """Powers of all shares are 0 in float32, but not their ratios."""
    u, v = (part.float() for part in logits)
    uniform = torch.full_like(u, 1.0 / NUM_CLASSES)
    found = pairwise_differences(u, v, uniform, 60.0)
    torch.testing.assert_close(found, pairwise_differences(u, v, uniform, 1.0))


def test_order_of_classes_does_not_matter(logits, shares):
    u, v = logits
    order = torch.randperm(NUM_CLASSES, generator=torch.Generator().manual_seed(2))
    found = gkl_loss(u[:, order], v[:, order], shares[:, order], Gkl())
    torch.testing.assert_close(found, gkl_loss(u, v, shares, Gkl()))


def test_samples_are_weighted_by_their_own_predictions(logits):
    u, v = logits
    loss = build_loss(
        "gkl",
        NUM_CLASSES,
        weights_of="samples",
        gamma=0.3,
        temperature=2.0,
        weights_temperature=4.0,
    )
    section = Gkl(gamma=0.3, temperature=2.0)
    expected = oracle(u.numpy(), v.numpy(), softmax(u.numpy() / 4.0), section)
    found = loss(inputs_of([u, v, None, None], random_labels(12, num_classes=NUM_CLASSES)))
    assert found.mean().item() == pytest.approx(expected, rel=1e-10)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        gkl_loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 3), Gkl())
