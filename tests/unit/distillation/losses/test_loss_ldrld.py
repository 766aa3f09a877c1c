"""LDRLD, which gathers logits, against its formula with a masked softmax per set of classes."""

import math

import numpy as np
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

from service.distillation.losses.ldrld import ldrld_loss
from service.spec.losses.ldrld import Ldrld


@pytest.mark.parametrize("top_k", [2, 3, 7, 9])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equals_its_formula(top_k, temperature):
    u, v, _ = random_logits(0)
    section = Ldrld(alpha=10.5, beta=7.0, temperature=temperature, top_k=top_k)
    expected = by_sample(lambda a, b: oracles.ldrld(a, b, 10.5, 7.0, temperature, top_k), u, v)
    assert_equals_oracle(ldrld_loss(u, v, section), expected)
    assert_gradient(lambda a, b: ldrld_loss(a, b, section), u, v)


def test_parts_add_up():
    u, v, _ = random_logits(1)
    local = ldrld_loss(u, v, Ldrld(alpha=1.0, beta=0.0, top_k=4))
    rest = ldrld_loss(u, v, Ldrld(alpha=0.0, beta=1.0, top_k=4))
    found = ldrld_loss(u, v, Ldrld(alpha=3.0, beta=0.5, top_k=4))
    torch.testing.assert_close(found, 3.0 * local + 0.5 * rest, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("wrong", "weights"),
    [
        (0, {1: 2 / 2.5 * math.exp(-0.15), 2: 2 / 3.5 * math.exp(-0.2)}),
        (2, {0: 2 / 3.5 * math.exp(-0.2), 1: 2 / 2.5 * math.exp(-0.25)}),
    ],
)
def test_pairs_weigh_more_the_closer_and_the_higher_their_ranks(wrong, weights):
    """A teacher that differs in one of the student's three best classes, so in two pairs."""
    v = np.array([3.0, 2.0, 1.0, -20.0])
    u = v + 4.0 * np.eye(4)[wrong]
    pairs = sum(
        weight * oracles.kd(u[[wrong, other]], v[[wrong, other]], 1.0)
        for other, weight in weights.items()
    )
    section = Ldrld(alpha=1.0, beta=0.0, temperature=1.0, top_k=3)
    found = ldrld_loss(torch.tensor(u[None]), torch.tensor(v[None]), section)
    assert found.item() == pytest.approx((pairs + oracles.kd(u[:3], v[:3], 1.0)) / 4)


def test_one_class_left_has_nothing_to_compare():
    u, v, _ = random_logits(2)
    section = Ldrld(alpha=0.0, beta=7.0, top_k=NUM_CLASSES - 1)
    assert (ldrld_loss(u, v, section) == 0).all()


@pytest.mark.parametrize("top_k", [NUM_CLASSES, NUM_CLASSES + 1])
def test_as_many_best_classes_as_classes_are_refused(top_k):
    u, v, _ = random_logits(3)
    with pytest.raises(ValueError, match="top_k"):
        ldrld_loss(u, v, Ldrld(top_k=top_k))
