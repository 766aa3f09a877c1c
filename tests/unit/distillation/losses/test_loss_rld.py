"""RLD against its formula, with teachers that are right and teachers that are wrong."""

import pytest
import torch
from support import loss_oracles as oracles
from support.loss_inputs import assert_equals_oracle, assert_gradient, by_sample, random_logits

from service.distillation.losses.dkd import dkd_loss
from service.distillation.losses.rld import rld_loss
from service.spec.losses.rld import Rld

SECTION = Rld(alpha=1.5, beta=8.0, temperature=4.0, confidence_temperature=2.0)


def expected_losses(u, v, labels):
    return by_sample(lambda a, b, y: oracles.rld(a, b, y, 1.5, 8.0, 4.0, 2.0), u, v, labels)


def labels_of_rank(u, rank):
    """The class with this many better ones in the teacher's eyes."""
    return u.argsort(dim=1, descending=True)[:, rank]


@pytest.mark.parametrize("rank", [0, 1, 5, 9])
def test_equals_its_formula(rank):
    u, v, _ = random_logits(0)
    labels = labels_of_rank(u, rank)
    assert_equals_oracle(rld_loss(u, v, labels, SECTION), expected_losses(u, v, labels))
    assert_gradient(lambda a, b: rld_loss(a, b, labels, SECTION), u, v)


def test_equals_its_formula_for_random_labels():
    u, v, labels = random_logits(1)
    assert_equals_oracle(rld_loss(u, v, labels, SECTION), expected_losses(u, v, labels))


def test_it_is_dkd_where_the_teacher_is_right():
    u, v, labels = random_logits(2, num_samples=60)
    section = Rld(alpha=1.5, beta=3.0, temperature=4.0, confidence_temperature=4.0)
    found = rld_loss(u, v, labels, section)
    expected = dkd_loss(u, v, labels, 4.0, alpha=1.5, beta=3.0)
    is_right = u.argmax(dim=1) == labels
    assert 0 < is_right.sum() < len(u)
    torch.testing.assert_close(found[is_right], expected[is_right], rtol=1e-12, atol=1e-13)
    assert ((found - expected)[~is_right].abs() > 1e-6).all()


def test_nothing_is_compared_below_the_teachers_worst_class():
    u, v, _ = random_logits(3)
    labels = labels_of_rank(u, -1)
    section = Rld(alpha=0.0)
    student = v.clone().requires_grad_()
    found = rld_loss(u, student, labels, section)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert (found == 0).all()
    assert (gradient == 0).all()


def test_classes_tied_with_the_label_are_left_out():
    u = torch.tensor([[3.0, 1.0, 1.0, 0.0, -1.0]], dtype=torch.float64)
    v = torch.tensor([[0.5, 2.0, -1.0, 0.3, 0.2]], dtype=torch.float64, requires_grad=True)
    found = rld_loss(u, v, torch.tensor([1]), Rld(alpha=0.0, beta=1.0))
    found.sum().backward()
    assert found.item() == pytest.approx(oracles.kd(u[0, 3:].numpy(), v[0, 3:].detach().numpy(), 4))
    assert (v.grad[0, :3] == 0).all()
    assert (v.grad[0, 3:] != 0).all()


@pytest.mark.parametrize("field", ["temperature", "confidence_temperature"])
def test_bad_temperatures_are_refused(field):
    u, v, labels = random_logits(4)
    with pytest.raises(ValueError, match=field):
        rld_loss(u, v, labels, SECTION.model_copy(update={field: 0.0}))
