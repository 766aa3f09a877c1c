"""BatchNorm over micro-batches, in one pass or several, against each micro-batch by itself."""

import copy

import pytest
import torch
from torch import nn

from service.models.build import build_model
from service.training.batchnorm import RunningStatistics


def step(statistics, model, micro_batches, weights, passes=None):
    """One step; ``passes``: ranges of micro-batches, by default one for each."""
    sizes = [len(one) for one in micro_batches]
    outputs = []
    with statistics.step(sizes, weights) as running:
        for in_pass in passes or [range(i, i + 1) for i in range(len(sizes))]:
            with running.forward_pass(in_pass):
                outputs.append(model(torch.cat([micro_batches[i] for i in in_pass])))
    return torch.cat(outputs)


def test_running_statistics_are_the_mean_over_micro_batches():
    torch.manual_seed(0)
    model = nn.BatchNorm1d(3)
    micro_batches = list(torch.randn(4, 8, 3))
    statistics = RunningStatistics(model, 1)
    mean, variance = torch.zeros(3), torch.ones(3)
    for _ in range(3):
        step(statistics, model, micro_batches, [1 / 4] * 4)
        mean = 0.9 * mean + 0.1 * torch.stack([x.mean(0) for x in micro_batches]).mean(0)
        variance = 0.9 * variance + 0.1 * torch.stack([x.var(0) for x in micro_batches]).mean(0)
    torch.testing.assert_close(model.running_mean, mean)
    torch.testing.assert_close(model.running_var, variance)


@pytest.mark.parametrize("passes", [[range(3)], [range(2), range(2, 3)]])
def test_passes_of_several_micro_batches_equal_one_pass_for_each(passes):
    """Outputs, gradients and running statistics of a whole network, in float64."""
    torch.manual_seed(0)
    original = build_model("cifar:resnet8", 4).double().train()
    micro_batches = [torch.randn(n, 3, 16, 16, dtype=torch.float64) for n in (6, 6, 3)]
    weights = [6 / 15, 6 / 15, 3 / 15]

    # By hand: each micro-batch goes through a copy of the network by itself.
    outputs, statistics, gradients = [], [], []
    for images, weight in zip(micro_batches, weights, strict=True):
        model = copy.deepcopy(original)
        outputs.append(model(images))
        (weight * outputs[-1].square().sum()).backward()
        gradients.append([one.grad for one in model.parameters()])
        buffers = [b for b in model.buffers() if b.is_floating_point()]
        statistics.append([weight * buffer for buffer in buffers])

    found = step(RunningStatistics(original, 1), original, micro_batches, weights, passes)
    of_images = torch.cat(
        [torch.full((n,), w).double() for n, w in zip((6, 6, 3), weights, strict=True)]
    )
    (of_images[:, None] * found.square()).sum().backward()
    torch.testing.assert_close(found, torch.cat(outputs))
    for parameter, *parts in zip(original.parameters(), *gradients, strict=True):
        torch.testing.assert_close(parameter.grad, sum(parts))
    buffers = [b for b in original.buffers() if b.is_floating_point()]
    for buffer, *parts in zip(buffers, *statistics, strict=True):
        torch.testing.assert_close(buffer, sum(parts))


def test_running_statistics_of_unequal_micro_batches_over_two_workers():
    # 20 images: the first worker has micro-batches of 8 and 6, the second one of 6.
    torch.manual_seed(0)
    images = torch.randn(20, 3)
    shares = [[images[0:8], images[8:14]], [images[14:20]]]
    means = []
    for micro_batches in shares:
        model = nn.BatchNorm1d(3)
        model.running_mean.fill_(0.5)
        weights = [len(part) * len(shares) / len(images) for part in micro_batches]
        step(RunningStatistics(model, 1), model, micro_batches, weights)
        means.append(model.running_mean)
    torch.testing.assert_close(torch.stack(means).mean(0), 0.9 * 0.5 + 0.1 * images.mean(0))


def test_running_statistics_of_two_views_have_two_updates_in_a_step():
    """Of 12 images on two workers, the first of which has micro-batches of 4 and 2."""
    torch.manual_seed(1)
    weak, strong = torch.randn(12, 3), torch.randn(12, 3) + 2.0
    means, counts = [], []
    for parts in ([slice(0, 4), slice(4, 6)], [slice(6, 12)]):
        model = nn.BatchNorm1d(3)
        model.running_mean.fill_(0.5)
        sizes = [part.stop - part.start for part in parts]
        weights = [size * 2 / 12 for size in sizes]
        step = RunningStatistics(model, 1, num_views=2).step(sizes, weights)
        with step as running, running.forward_pass(range(len(parts))):
            model(torch.cat([view[part] for view in (weak, strong) for part in parts]))
        means.append(model.running_mean)
        counts.append(model.num_batches_tracked.item())
    expected = 0.9 * (0.9 * 0.5 + 0.1 * weak.mean(0)) + 0.1 * strong.mean(0)
    torch.testing.assert_close(torch.stack(means).mean(0), expected)
    assert counts == [2, 2]


def test_statistics_are_averaged_over_the_workers(monkeypatch):
    """The other worker's running mean is 3 higher, and its variance is 2 higher."""

    def add_other_worker(flat):
        flat += flat + torch.tensor([3.0, 3.0, 2.0, 2.0])

    model = nn.BatchNorm1d(2)
    model.running_mean.fill_(1.0)
    monkeypatch.setattr("torch.distributed.all_reduce", add_other_worker)
    RunningStatistics(model, 1).synchronize()
    assert model.running_mean.tolist() == [1.0, 1.0]
    RunningStatistics(model, 2).synchronize()
    assert model.running_mean.tolist() == [2.5, 2.5]
    assert model.running_var.tolist() == [2.0, 2.0]
    assert model.num_batches_tracked.item() == 0


def test_one_full_micro_batch_is_a_plain_step():
    torch.manual_seed(0)
    images, models = torch.randn(8, 3), [nn.BatchNorm1d(3), nn.BatchNorm1d(3)]
    models[0](images)
    step(RunningStatistics(models[1], 1), models[1], [images], [1.0])
    assert torch.equal(models[0].running_mean, models[1].running_mean)
    assert models[1].num_batches_tracked.item() == 1
    assert type(models[1]) is nn.BatchNorm1d


def test_statistics_of_a_step_that_failed_are_not_averaged():
    model = nn.BatchNorm1d(3)
    statistics = RunningStatistics(model, 1)
    with pytest.raises(RuntimeError, match="injected"), statistics.step([4, 4], [0.5] * 2):
        raise RuntimeError("injected")
    assert torch.equal(model.running_mean, torch.zeros(3))
    assert model.num_batches_tracked.item() == 0


def test_a_step_counts_once_and_momentum_is_the_layers():
    torch.manual_seed(0)
    model = nn.BatchNorm1d(3, momentum=0.4)
    parts = list(torch.randn(2, 8, 3))
    step(RunningStatistics(model, 1), model, parts, [0.5, 0.5])
    assert model.num_batches_tracked.item() == 1
    torch.testing.assert_close(model.running_mean, 0.4 * torch.cat(parts).mean(0))


def test_layers_without_statistics_are_normalized_by_micro_batch_too():
    torch.manual_seed(0)
    model = nn.BatchNorm1d(3, track_running_stats=False)
    parts = list(torch.randn(2, 8, 3))
    expected = torch.cat([model(part) for part in parts])
    found = step(RunningStatistics(model, 1), model, parts, [0.5, 0.5], [range(2)])
    torch.testing.assert_close(found, expected)


def test_names_and_evaluation_are_those_of_the_network():
    torch.manual_seed(0)
    model = build_model("cifar:resnet8", 4).eval()
    images = torch.randn(4, 3, 16, 16)
    names, expected = list(model.state_dict()), model(images)
    with pytest.raises(KeyboardInterrupt), RunningStatistics(model, 1).step([2, 2], [0.5, 0.5]):
        raise KeyboardInterrupt
    assert torch.equal(model(images), expected)
    assert list(model.state_dict()) == names


def test_state_of_statistics_is_restored():
    torch.manual_seed(0)
    model, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    model(torch.randn(8, 3))
    RunningStatistics(other, 1).restore(RunningStatistics(model, 1).state())
    assert torch.equal(other.running_var, model.running_var)
    assert other.num_batches_tracked.item() == 1


def test_state_is_restored_only_where_it_is_asked_for():
    torch.manual_seed(0)
    model = nn.BatchNorm1d(3)
    statistics = RunningStatistics(model, 1)
    before = statistics.snapshot()
    model(torch.randn(8, 3))
    after = model.running_mean.clone()
    statistics.restore(before, torch.tensor(False))
    assert torch.equal(model.running_mean, after)
    assert model.num_batches_tracked.item() == 1
    statistics.restore(before, torch.tensor(True))
    assert torch.equal(model.running_mean, torch.zeros(3))
    assert model.num_batches_tracked.item() == 0


def test_layers_that_a_step_does_not_call_keep_their_statistics():
    """One that is frozen, in evaluation mode, and one that the images do not get to."""
    model = nn.ModuleList([nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.BatchNorm1d(3)]).train()
    for layer in model[:2]:
        layer.running_mean.fill_(5.0)
    model[0].eval()
    statistics = RunningStatistics(model, 1)
    with statistics.step([8, 8], [0.5, 0.5]) as running, running.forward_pass(range(2)):
        model[2](model[0](torch.randn(16, 3)))
    for layer in model[:2]:
        assert layer.running_mean.tolist() == [5.0] * 3
        assert layer.running_var.tolist() == [1.0] * 3
    assert model[2].running_mean.abs().sum() > 0


@pytest.mark.parametrize("name", ["timm:regnetx_002", "timm:mobilenetv3_small_050"])
def test_layers_with_an_activation_of_their_own_have_it_in_every_pass(name):
    """Those of timm, whose BatchNorm ends in an activation."""
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = build_model(name, 4).double().train()
    assert any(isinstance(getattr(one, "act", None), nn.Module) for one in model.modules())
    parts = list(torch.randn(2, 4, 3, 32, 32, dtype=torch.float64))
    plain = copy.deepcopy(model)
    for module in (model, plain):
        for one in module.modules():
            # Dropout would draw other numbers in one pass than in two.
            if isinstance(one, nn.Dropout):
                one.p = 0.0
    expected = torch.cat([copy.deepcopy(plain)(part) for part in parts])
    found = step(RunningStatistics(model, 1), model, parts, [0.5, 0.5], [range(2)])
    torch.testing.assert_close(found, expected)


def test_state_of_a_network_without_layers_is_on_its_device():
    """Or else what is decided on a GPU could not be applied to it."""
    statistics = RunningStatistics(nn.Linear(2, 2, device="meta"), 1)
    assert [one.device.type for one in statistics.state()] == ["meta", "meta"]
    statistics.restore(statistics.snapshot(), torch.empty((), dtype=torch.bool, device="meta"))
