"""Running statistics, weight decay and checkpoints against independent references."""

import pytest
import torch
from torch import nn

from service.models.build import build_model
from service.run.progress import Progress
from service.spec.optimization import AdamW, Sgd
from service.training.batchnorm import RunningStatistics
from service.training.checkpoint import (
    Snapshot,
    checkpoint_name,
    copied_to_cpu,
    cpu_state_dict,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from service.training.optimizers import (
    build_ema,
    build_optimizer,
    gradient_norm,
)


def test_running_statistics_are_the_mean_over_micro_batches():
    torch.manual_seed(0)
    model = nn.BatchNorm1d(3)
    micro_batches = list(torch.randn(4, 8, 3))
    statistics = RunningStatistics(model, 1)
    mean, variance = torch.zeros(3), torch.ones(3)
    for _ in range(3):
        with statistics.step([1 / 4] * 4) as running:
            for images in micro_batches:
                model(images)
                running.micro_batch_done()
        mean = 0.9 * mean + 0.1 * torch.stack([x.mean(0) for x in micro_batches]).mean(0)
        variance = 0.9 * variance + 0.1 * torch.stack([x.var(0) for x in micro_batches]).mean(0)
    torch.testing.assert_close(model.running_mean, mean)
    torch.testing.assert_close(model.running_var, variance)


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
        with RunningStatistics(model, 1).step(weights) as running:
            for part in micro_batches:
                model(part)
                running.micro_batch_done()
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
        weights = [(part.stop - part.start) * 2 / 12 for part in parts]
        with RunningStatistics(model, 1, num_views=2).step(weights) as running:
            for part in parts:
                model(weak[part])
                model(strong[part])
                running.micro_batch_done()
        means.append(model.running_mean)
        counts.append(model.num_batches_tracked.item())
    expected = 0.9 * (0.9 * 0.5 + 0.1 * weak.mean(0)) + 0.1 * strong.mean(0)
    torch.testing.assert_close(torch.stack(means).mean(0), expected)
    assert counts == [2, 2]


@pytest.mark.parametrize("is_exempt", [True, False])
def test_weight_decay_exempts_norms_and_biases_if_configured(is_exempt):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    section = Sgd(learning_rate=1.0, weight_decay=0.1, decay_norms_and_biases=not is_exempt)
    optimizer = build_optimizer(model, section)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        decays = name == "0.weight" or not is_exempt
        torch.testing.assert_close(parameter, before[name] * (0.9 if decays else 1.0))


def test_adamw_is_built_from_its_section():
    optimizer = build_optimizer(nn.Linear(2, 2), AdamW(kind="adamw", learning_rate=3e-4))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]


def test_gradient_norm_is_global():
    model = nn.Linear(2, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    assert gradient_norm(model).item() == pytest.approx(5.0)


def test_ema_follows_its_formula():
    model = nn.BatchNorm1d(1)
    ema = build_ema(model, 0.75)
    ema.update_parameters(model)
    with torch.no_grad():
        model.weight.fill_(5.0)
        model.running_mean.fill_(8.0)
    ema.update_parameters(model)
    assert ema.module.weight.item() == pytest.approx(0.75 * 1.0 + 0.25 * 5.0)
    assert ema.module.running_mean.item() == pytest.approx(0.25 * 8.0)


@pytest.fixture
def trained(tmp_path):
    """A model and optimizer with momentum, saved at steps 10 and 20."""
    torch.manual_seed(0)
    model = build_model("cifar:tiny_cnn", 3).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, Sgd(momentum=0.9))
    for step in (10, 20):
        model(torch.randn(4, 3, 8, 8)).sum().backward()
        optimizer.step()
        path = tmp_path / checkpoint_name(step)
        weights, momenta = cpu_state_dict(model), copied_to_cpu(optimizer.state_dict())
        progress = Progress(step=step, epoch=step)
        save_checkpoint(path, "hash", Snapshot(weights, None, momenta, [{"kept": 7}], progress))
    return tmp_path, model, optimizer


def test_checkpoint_is_loaded_bit_for_bit(trained):
    run_path, model, optimizer = trained
    other = build_model("cifar:tiny_cnn", 3)
    other_optimizer = build_optimizer(other, Sgd(momentum=0.9))
    path = newest_checkpoint(run_path)
    progress, ranks = load_checkpoint(path, other, None, other_optimizer)
    assert ranks == [{"kept": 7}]
    assert progress == Progress(step=20, epoch=20)
    for ours, theirs in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    momenta = [
        [state["momentum_buffer"] for state in o.state_dict()["state"].values()]
        for o in (optimizer, other_optimizer)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True))


@pytest.mark.parametrize("name", ["student.safetensors", "optimizer.pt", "metadata.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_checkpoint_is_skipped(trained, name, damage):
    run_path, *_ = trained
    path = run_path / checkpoint_name(20) / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 0x80
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    assert newest_checkpoint(run_path).name == checkpoint_name(10)


def test_unfinished_save_is_not_a_checkpoint(trained):
    run_path, *_ = trained
    (run_path / checkpoint_name(20)).rename(run_path / f".{checkpoint_name(20)}.partial")
    assert newest_checkpoint(run_path).name == checkpoint_name(10)
    assert newest_checkpoint(run_path / "missing") is None


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
    with RunningStatistics(models[1], 1).step([1.0]) as running:
        models[1](images)
        running.micro_batch_done()
    assert torch.equal(models[0].running_mean, models[1].running_mean)
    assert models[1].num_batches_tracked.item() == 1


def test_statistics_of_a_step_that_failed_are_not_averaged():
    model = nn.BatchNorm1d(3)
    with pytest.raises(RuntimeError, match="injected"), RunningStatistics(model, 1).step([0.5] * 2):
        raise RuntimeError("injected")
    assert torch.equal(model.running_mean, torch.zeros(3))
    assert model.num_batches_tracked.item() == 0


def test_a_step_counts_once_and_momentum_is_the_layers():
    torch.manual_seed(0)
    model = nn.BatchNorm1d(3, momentum=0.4)
    parts = list(torch.randn(2, 8, 3))
    with RunningStatistics(model, 1).step([0.5, 0.5]) as running:
        for images in parts:
            model(images)
            running.micro_batch_done()
    assert model.num_batches_tracked.item() == 1
    torch.testing.assert_close(model.running_mean, 0.4 * torch.cat(parts).mean(0))


def test_state_of_statistics_is_restored():
    torch.manual_seed(0)
    model, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    model(torch.randn(8, 3))
    RunningStatistics(other, 1).restore(RunningStatistics(model, 1).state())
    assert torch.equal(other.running_var, model.running_var)
    assert other.num_batches_tracked.item() == 1


def test_copies_on_the_cpu_share_no_memory():
    tensor = torch.ones(2)
    tree = {"a": tensor, "list": [tensor, 3], "pair": (0.9, 0.99), "number": 1.5}
    found = copied_to_cpu(tree)
    tensor.zero_()
    assert found["a"].tolist() == found["list"][0].tolist() == [1, 1]
    assert (found["list"][1], found["pair"], found["number"]) == (3, (0.9, 0.99), 1.5)
