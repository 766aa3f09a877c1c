"""NKD against its formula."""

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
from service.distillation.losses.dkd import dkd_loss
from service.distillation.losses.nkd import NkdLoss, nkd_loss
from service.spec.losses.nkd import Nkd


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_equals_its_formula(temperature, gamma):
    u, v, labels = random_logits(0)
    expected = by_sample(lambda a, b, y: oracles.nkd(a, b, y, temperature, gamma), u, v, labels)
    assert_equals_oracle(nkd_loss(u, v, labels, temperature, gamma=gamma), expected)
    assert_gradient(lambda a, b: nkd_loss(a, b, labels, temperature, gamma=gamma), u, v)


def test_the_section_gives_the_settings():
    u, v, labels = random_logits(1)
    expected = by_sample(lambda a, b, y: oracles.nkd(a, b, y, 2.0, 0.7), u, v, labels)
    loss = NkdLoss(Nkd(gamma=0.7, temperature=2.0), Context(NUM_CLASSES, 1))
    assert_equals_oracle(loss(LossInputs(v, labels, 0, u)), expected)


def test_its_part_among_other_classes_has_the_gradient_of_nckd():
    """Cross-entropy and KL differ by the teacher's entropy only."""
    u, v, labels = random_logits(2)
    gradients = []
    for loss in (
        lambda z: nkd_loss(u, z, labels, 3.0, gamma=1.0) - nkd_loss(u, z, labels, 3.0, gamma=0.0),
        lambda z: dkd_loss(u, z, labels, 3.0, alpha=0.0, beta=1.0),
    ):
        student = v.clone().requires_grad_()
        gradients += torch.autograd.grad(loss(student).sum(), student)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_two_classes_leave_the_part_about_the_label():
    u, v, labels = random_logits(3, num_classes=2)
    expected = nkd_loss(u, v, labels, 1.0, gamma=0.0)
    assert torch.equal(nkd_loss(u, v, labels, 1.0, gamma=1.5), expected)
    p, q = torch.softmax(u, dim=1), torch.softmax(v, dim=1)
    product = -(p * q.log()).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(expected, product)


def test_bad_arguments_are_refused():
    u, v, labels = random_logits(4)
    with pytest.raises(ValueError, match="temperature"):
        nkd_loss(u, v, labels, 0.0, gamma=1.0)
    with pytest.raises(ValueError, match="labels is"):
        nkd_loss(u, v, labels[:-1], 1.0, gamma=1.0)
