"""DKD and its halves against their formulas, at fixed and at dynamic temperatures."""

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

from service.distillation.losses import LOSSES
from service.distillation.losses.base import Context, LossInputs
from service.distillation.losses.dkd import dkd_loss
from service.distillation.losses.kd import kd_loss
from service.spec.losses import Losses

DYNAMIC = {"kind": "dynamic", "base_temperature": 3.0, "floor": 0.01}


def dkd_oracle(u, v, y, *temperatures):
    """With the section's default weights."""
    return oracles.tckd(u, v, y, *temperatures) + 8.0 * oracles.nckd(u, v, y, *temperatures)


ORACLES = {"dkd": dkd_oracle, "tckd": oracles.tckd, "nckd": oracles.nckd}
each = pytest.mark.parametrize("name", ORACLES)


def loss_by(name, u, v, labels, **section):
    """A loss with a section's settings."""
    settings = getattr(Losses.model_validate({name: section}), name)
    return LOSSES[name](settings, Context(NUM_CLASSES, 1))(LossInputs(v, labels, 0, u))


@each
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equals_its_formula_at_a_fixed_temperature(name, temperature):
    u, v, labels = random_logits(0)
    expected = by_sample(lambda a, b, y: ORACLES[name](a, b, y, temperature), u, v, labels)
    found = loss_by(name, u, v, labels, temperature=temperature)
    assert_equals_oracle(found, expected)
    assert_gradient(lambda a, b: loss_by(name, a, b, labels, temperature=temperature), u, v)


@each
def test_equals_its_formula_at_dynamic_temperatures(name):
    u, v, labels = random_logits(1)

    def oracle(a, b, y):
        return ORACLES[name](a, b, y, *oracles.released_temperatures(a, b, 3.0))

    found = loss_by(name, u, v, labels, temperature=DYNAMIC)
    assert_equals_oracle(found, by_sample(oracle, u, v, labels))
    assert_gradient(lambda a, b: loss_by(name, a, b, labels, temperature=DYNAMIC), u, v)


@each
def test_equals_its_formula_of_standardized_logits(name):
    u, v, labels = random_logits(2)

    def oracle(a, b, y):
        return ORACLES[name](oracles.standardize(a), oracles.standardize(b), y, 2.0)

    found = loss_by(name, u, v, labels, temperature=2.0, standardize=True)
    assert_equals_oracle(found, by_sample(oracle, u, v, labels))


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (0.0, 0.5), (2.0, 0.0)])
def test_halves_add_up(alpha, beta):
    u, v, labels = random_logits(3)
    target, others = (loss_by(name, u, v, labels, temperature=3.0) for name in ("tckd", "nckd"))
    expected = alpha * target + beta * others
    found = dkd_loss(u, v, labels, 3.0, alpha=alpha, beta=beta)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_kd_is_the_sum_with_the_teachers_own_weight():
    """KD = TCKD + (1 - p_y) NCKD, the decomposition that DKD takes its name from."""
    u, v, labels = random_logits(4)
    share = 1.0 - torch.softmax(u / 3.0, dim=1).gather(1, labels[:, None])[:, 0]
    target, others = (loss_by(name, u, v, labels, temperature=3.0) for name in ("tckd", "nckd"))
    found = target + share * others
    torch.testing.assert_close(found, kd_loss(u, v, 3.0), rtol=1e-9, atol=1e-12)


def test_two_classes_have_no_other_classes_to_compare():
    u, v, labels = random_logits(5, num_classes=2)
    assert torch.equal(
        loss_by("nckd", u, v, labels, temperature=4.0), torch.zeros(len(u), dtype=u.dtype)
    )
    torch.testing.assert_close(loss_by("tckd", u, v, labels, temperature=4.0), kd_loss(u, v, 4.0))


@each
def test_labels_of_another_shape_are_refused(name):
    u, v, labels = random_logits(6)
    with pytest.raises(ValueError, match="labels is"):
        loss_by(name, u, v, labels[:-1])
