"""Skew KL against its formula."""

import math

import pytest
import torch
from pydantic import ValidationError
from support import loss_oracles as oracles
from support.loss_inputs import (
    NUM_CLASSES,
    assert_equals_oracle,
    assert_gradient,
    by_sample,
    random_logits,
)

from service.distillation.losses.base import Context, LossInputs
from service.distillation.losses.kd import kd_loss
from service.distillation.losses.skew import SkewLoss, skew_loss
from service.spec.losses.skew import Skew

both_directions = pytest.mark.parametrize("direction", ["forward", "reverse"])


def oracle(u, v, t, share, direction):
    p, q = oracles.softmax(u / t), oracles.softmax(v / t)
    if direction == "forward":
        return t**2 * oracles.kl(p, share * p + (1 - share) * q)
    return t**2 * oracles.kl(q, (1 - share) * p + share * q)


@both_directions
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equals_its_formula(direction, share, temperature):
    u, v, _ = random_logits(0)
    options = {"share": share, "direction": direction}
    expected = by_sample(lambda a, b: oracle(a, b, temperature, share, direction), u, v)
    assert_equals_oracle(skew_loss(u, v, temperature, **options), expected)
    assert_gradient(lambda a, b: skew_loss(a, b, temperature, **options), u, v)


def test_a_small_share_approaches_kl():
    u, v, _ = random_logits(1)
    forward = skew_loss(u, v, 4.0, share=1e-9)
    torch.testing.assert_close(forward, kd_loss(u, v, 4.0), rtol=1e-6, atol=1e-8)
    reverse = skew_loss(u, v, 4.0, share=1e-9, direction="reverse")
    torch.testing.assert_close(reverse, kd_loss(v, u, 4.0), rtol=1e-6, atol=1e-8)


@both_directions
def test_it_is_bounded_where_a_probability_underflows(direction):
    """KL would be 1e5 here. The prediction that comes first gets the share alone."""
    u = torch.tensor([[1e5, 0.0, 0.0]])
    v = torch.tensor([[0.0, 1e5, 0.0]], requires_grad=True)
    found = skew_loss(u, v, 1.0, share=0.1, direction=direction)
    found.sum().backward()
    assert found.item() == pytest.approx(-math.log(0.1), rel=1e-6)
    assert torch.isfinite(v.grad).all()


@both_directions
def test_the_section_gives_the_settings(direction):
    u, v, labels = random_logits(2)
    section = Skew(share=0.2, direction=direction, temperature=3.0)
    expected = by_sample(lambda a, b: oracle(a, b, 3.0, 0.2, direction), u, v)
    found = SkewLoss(section, Context(NUM_CLASSES, 1))(LossInputs(v, labels, 0, u))
    assert_equals_oracle(found, expected)


@pytest.mark.parametrize("share", [0.0, 1.0, math.nan])
def test_bad_shares_are_refused(share):
    u, v, _ = random_logits(3)
    with pytest.raises(ValueError, match="share"):
        skew_loss(u, v, 4.0, share=share)


@pytest.mark.parametrize(
    ("share", "is_right"), [(0.01, True), (0.99, True), (0, False), (1, False)]
)
def test_neither_prediction_is_the_whole_mixture(share, is_right):
    if is_right:
        assert Skew(share=share).share == share
        return
    with pytest.raises(ValidationError, match="share"):
        Skew(share=share)
