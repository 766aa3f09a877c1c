"""Weight decay and checkpoints against independent references."""

import pytest
import torch
from torch import nn

from service.models.build import build_model
from service.run.progress import Progress
from service.spec.optimization import AdamW, Sgd
from service.training.checkpoint import (
    Snapshot,
    checkpoint_name,
    copied_to_cpu,
    cpu_state_dict,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from service.training.optimizers import build_optimizer


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


def test_copies_on_the_cpu_share_no_memory():
    tensor = torch.ones(2)
    tree = {"a": tensor, "list": [tensor, 3], "pair": (0.9, 0.99), "number": 1.5}
    found = copied_to_cpu(tree)
    tensor.zero_()
    assert found["a"].tolist() == found["list"][0].tolist() == [1, 1]
    assert (found["list"][1], found["pair"], found["number"]) == (3, (0.9, 0.99), 1.5)
