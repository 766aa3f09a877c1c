"""TTM and WTTM against their formulas with the power transform."""

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

from service.distillation.losses.ttm import ttm_loss
from service.distillation.losses.wttm import wttm_loss

LOSSES_AND_ORACLES = [(ttm_loss, oracles.ttm), (wttm_loss, oracles.wttm)]


@pytest.mark.parametrize(("loss", "oracle"), LOSSES_AND_ORACLES)
@pytest.mark.parametrize("temperature", [0.8, 1.0, 1.25, 10.0])
def test_equals_its_formula(loss, oracle, temperature):
    u, v, _ = random_logits(0)
    expected = by_sample(lambda a, b: oracle(a, b, temperature), u, v)
    assert_equals_oracle(loss(u, v, temperature), expected)
    assert_gradient(lambda a, b: loss(a, b, temperature), u, v)


def test_wttm_with_equal_weights_is_ttm():
    """Teacher logits in another order have the same weight; at temperature 1 it is 1 for all."""
    u, v, _ = random_logits(1)
    generator = torch.Generator().manual_seed(0)
    same = torch.stack([u[0, torch.randperm(NUM_CLASSES, generator=generator)] for _ in u])
    ratios = wttm_loss(same, v, 2.0) / ttm_loss(same, v, 2.0)
    assert ratios[0] > 1.0
    torch.testing.assert_close(ratios, ratios[0].expand(len(u)), rtol=1e-12, atol=0)
    torch.testing.assert_close(wttm_loss(u, v, 1.0), ttm_loss(u, v, 1.0), rtol=1e-12, atol=0)


def test_wttm_weights_the_samples_that_the_teacher_is_unsure_of():
    v = random_logits(2)[1][:2]
    u = torch.zeros(2, NUM_CLASSES, dtype=torch.float64)
    u[0, 0] = 1e3
    sure, unsure = wttm_loss(u, v, 2.0) / ttm_loss(u, v, 2.0)
    assert sure.item() == pytest.approx(1.0)
    assert unsure.item() == pytest.approx(NUM_CLASSES**0.5)


@pytest.mark.parametrize("loss", [ttm_loss, wttm_loss])
def test_bad_temperatures_are_refused(loss):
    u, v, _ = random_logits(3)
    with pytest.raises(ValueError, match="temperature"):
        loss(u, v, 0.0)
