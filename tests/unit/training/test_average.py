"""The moving average of weights, and an update that the device decides about."""

import pytest
import torch
from torch import nn

from service.spec.optimization import AdamW, Sgd
from service.training.average import WeightAverage
from service.training.optimizers import build_optimizer
from service.training.update import WeightUpdate

TAKEN, SKIPPED = torch.tensor(0.0), torch.tensor(1.0)


def test_average_follows_its_formula():
    """The decay is 1/10, 2/11, 3/12 and so on, until it is the spec's."""
    model = nn.BatchNorm1d(1)
    average = WeightAverage(model, 0.2)
    weight, mean = 1.0, 0.0
    for value, decay in ((5.0, 1 / 10), (3.0, 2 / 11), (-2.0, 0.2), (4.0, 0.2)):
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(2 * value)
            model.num_batches_tracked.add_(1)
        average.update(TAKEN)
        weight = decay * weight + (1 - decay) * value
        mean = decay * mean + (1 - decay) * 2 * value
        assert average.module.weight.item() == pytest.approx(weight)
        assert average.module.running_mean.item() == pytest.approx(mean)
    assert average.module.num_batches_tracked.item() == 4


def test_a_skipped_update_is_not_averaged():
    model = nn.Linear(2, 1)
    average = WeightAverage(model, 0.9)
    before = average.module.weight.clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    average.update(SKIPPED)
    assert torch.equal(average.module.weight, before)
    assert average.num_updates.item() == 0


def with_gradients(model, values):
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.grad = torch.full_like(parameter, value)


def test_norm_is_global_and_clips():
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone(), model.bias.detach().clone()
    optimizer = build_optimizer(model, Sgd(learning_rate=1.0, momentum=0.0, weight_decay=0.0))
    model.weight.grad, model.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    update = WeightUpdate(model, optimizer, None, max_norm=1.0)
    checked = update.check(torch.zeros(()))
    assert checked.gradient_norm.item() == pytest.approx(5.0)
    update.apply(checked)
    torch.testing.assert_close(model.weight, before[0] - torch.tensor([[0.6, 0.0]]))
    torch.testing.assert_close(model.bias, before[1] - 0.8)


@pytest.mark.parametrize("section", [Sgd(momentum=0.9, nesterov=True), AdamW(kind="adamw")])
@pytest.mark.parametrize("bad_steps", [(0,), (2,), (0, 1, 3)])
def test_steps_that_are_not_finite_leave_no_trace(section, bad_steps):
    """Weights and optimizer are those of a run that never had these steps."""
    torch.manual_seed(0)
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    models[1].load_state_dict(models[0].state_dict())
    updates = [
        WeightUpdate(model, build_optimizer(model, section), None, max_norm=10.0)
        for model in models
    ]
    for step in range(5):
        is_bad = step in bad_steps
        with_gradients(models[0], (float("nan") if is_bad else 0.1 * step, 0.5))
        updates[0].apply(updates[0].check(torch.zeros(())))
        if not is_bad:
            with_gradients(models[1], (0.1 * step, 0.5))
            updates[1].apply(updates[1].check(torch.zeros(())))
    assert all(map(torch.equal, *(model.state_dict().values() for model in models)))
