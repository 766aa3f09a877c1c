"""Learning-rate schedules against those of torch."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from service.spec.optimization import Schedule
from service.training.schedules import learning_rate

STEPS = 7


def assert_equal_rates(schedule, peak, scheduler):
    for step in range(schedule.num_epochs * STEPS):
        expected = scheduler.get_last_lr()[0]
        assert learning_rate(schedule, peak, step, STEPS) == pytest.approx(expected, rel=1e-6)
        scheduler.optimizer.step()
        if step + 1 < schedule.num_epochs * STEPS:
            scheduler.step()


def optimizer():
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)


@pytest.mark.parametrize("power", [0.9, 2.0])
def test_poly_equals_torch(power):
    schedule = Schedule(num_epochs=10, kind="poly", power=power)
    assert_equal_rates(schedule, 0.5, lr_scheduler.PolynomialLR(optimizer(), 70, power))


@pytest.mark.parametrize(("rise", "initial", "final"), [(0.3, 0.04, 4e-6), (0.45, 0.1, 0.001)])
def test_one_cycle_equals_torch(rise, initial, final):
    schedule = Schedule(
        num_epochs=10,
        kind="one_cycle",
        rise_fraction=rise,
        initial_fraction=initial,
        final_fraction=final,
    )
    reference = lr_scheduler.OneCycleLR(
        optimizer(),
        0.5,
        total_steps=70,
        pct_start=rise,
        div_factor=1 / initial,
        final_div_factor=initial / final,
        cycle_momentum=False,
    )
    assert_equal_rates(schedule, 0.5, reference)


def test_one_cycle_of_a_single_step_is_the_peak():
    assert learning_rate(Schedule(num_epochs=1, kind="one_cycle"), 0.5, 0, 1) == 0.5


def test_multistep_equals_torch():
    schedule = Schedule(num_epochs=10, milestones=(3, 7), decay_factor=0.2)
    reference = lr_scheduler.MultiStepLR(optimizer(), [3, 7], 0.2)
    for epoch in range(10):
        for step in range(epoch * STEPS, (epoch + 1) * STEPS):
            expected = reference.get_last_lr()[0]
            assert learning_rate(schedule, 0.5, step, STEPS) == pytest.approx(expected)
        reference.optimizer.step()
        reference.step()


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_annealing_equals_torch(kind):
    schedule = Schedule(num_epochs=10, kind=kind, final_fraction=0.1)
    if kind == "cosine":
        reference = lr_scheduler.CosineAnnealingLR(optimizer(), 70, eta_min=0.05)
    else:
        reference = lr_scheduler.LinearLR(optimizer(), 1.0, 0.1, 70)
    assert_equal_rates(schedule, 0.5, reference)


def test_warmup_rises_in_equal_steps_to_the_peak():
    schedule = Schedule(num_epochs=10, kind="cosine", warmup_epochs=1.0)
    rates = [learning_rate(schedule, 0.7, step, STEPS) for step in range(STEPS)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
