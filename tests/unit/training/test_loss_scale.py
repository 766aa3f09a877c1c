"""The scale is that of torch.amp.GradScaler, whose decisions are made on the host."""

import pytest
import torch
from torch import nn

from service.training import loss_scale
from service.training.loss_scale import INITIAL_SCALE, MAX_SCALE, LossScale

CPU = torch.device("cpu")
YES, NO = torch.tensor(True), torch.tensor(False)
STEPS = [1.0, 1.0, 1.0, torch.inf, 1.0, torch.nan, 1.0, 1.0, 1.0, 1.0, torch.inf, -torch.inf, 1.0]


@pytest.fixture
def _short_interval(monkeypatch):
    monkeypatch.setattr(loss_scale, "GROWTH_INTERVAL", 3)


@pytest.mark.usefixtures("_short_interval")
def test_scale_and_gradients_are_those_of_grad_scaler():
    scaler = torch.amp.GradScaler("cpu", init_scale=INITIAL_SCALE, growth_interval=3)
    scale = LossScale(CPU)
    for factor in STEPS:
        weight, own = (
            nn.Parameter(torch.tensor([0.5, -2.0])),
            nn.Parameter(torch.tensor([0.5, -2.0])),
        )
        optimizer = torch.optim.SGD([weight], lr=1.0)
        scaler.scale((factor * weight**2).sum()).backward()
        ((factor * own**2).sum() * scale.scale).backward()
        scaler.unscale_(optimizer)
        scale.unscale([own.grad])
        torch.testing.assert_close(own.grad, weight.grad, rtol=0, atol=0, equal_nan=True)
        scaler.step(optimizer)
        scaler.update()
        is_overflow = ~torch.isfinite(own.grad.sum())
        assert not scale.update(is_overflow, YES)
        assert scale.scale.item() == scaler.get_scale()


def test_overflow_counts_only_where_a_smaller_scale_does_not_help():
    scale = LossScale(CPU)
    num_halved = 0
    while not scale.update(YES, YES):
        num_halved += 1
    assert (num_halved, scale.scale.item()) == (16, 1.0)
    assert scale.update(YES, YES)
    assert not scale.update(NO, YES)


def test_a_loss_that_is_not_finite_counts_at_any_scale_and_leaves_it():
    """It is not scaled: no smaller scale would make it finite."""
    scale = LossScale(CPU)
    assert scale.update(YES, NO)
    assert scale.scale.item() == INITIAL_SCALE
    assert scale.state_dict()["num_finite"].item() == 0


@pytest.mark.usefixtures("_short_interval")
def test_scale_has_an_upper_limit():
    scale = LossScale(CPU)
    for _ in range(60):
        scale.update(NO, YES)
    assert scale.scale.item() == MAX_SCALE


@pytest.mark.usefixtures("_short_interval")
def test_restored_scale_goes_on_as_the_stored_one():
    one, other = LossScale(CPU), LossScale(CPU)
    for is_overflow in (False, True, False, False):
        one.update(torch.tensor(is_overflow), YES)
    other.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    for scale in (one, other):
        scale.update(NO, YES)
    assert other.scale.item() == one.scale.item() == INITIAL_SCALE
