"""What is loaded from a checkpoint: the networks, the optimizer, the average, and nothing else."""

import os

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from service.result import IncompleteRunError, collect_result
from service.run.progress import Progress
from service.spec.loading import parse_spec
from service.training.checkpoint import (
    Snapshot,
    cpu_state_dict,
    final_student_path,
    load_checkpoint,
    mean_of_ranks,
    save_checkpoint,
)

WEIGHTS = {"weight": torch.full((3, 4), 1.0)}


@pytest.fixture
def save(tmp_path):
    """A function that saves a checkpoint with these parts, and returns its path."""

    def save(step=1, **parts):
        content = {"student": WEIGHTS, "ema": None, "optimizer": {"state": {}}, "per_rank": [{}]}
        path = tmp_path / f"checkpoint_{step:010d}"
        save_checkpoint(path, "hash", Snapshot(**content | parts, progress=Progress(step=step)))
        return path

    return save


def test_average_is_the_final_student(save):
    average = {"weight": torch.full((3, 4), 7.0)}
    with_average, without = save(1, ema=average), save(2)
    assert torch.equal(load_file(final_student_path(with_average))["weight"], average["weight"])
    assert torch.equal(load_file(final_student_path(without))["weight"], WEIGHTS["weight"])


def test_student_average_optimizer_and_progress_are_filled(save):
    def trained(seed):
        torch.manual_seed(seed)
        model = nn.Linear(4, 3)
        average, optimizer = AveragedModel(model), torch.optim.SGD(model.parameters(), 0.1, 0.9)
        model(torch.randn(2, 4)).sum().backward()
        optimizer.step()
        average.module.weight.data += 1.0
        return model, average, optimizer

    model, average, optimizer = trained(0)
    path = save(
        5,
        student=cpu_state_dict(model),
        ema=cpu_state_dict(average.module),
        optimizer=optimizer.state_dict(),
        per_rank=[{"metrics": 3}, {"metrics": 4}],
    )
    found = trained(1)
    progress, per_rank = load_checkpoint(path, *found)
    assert progress.step == 5
    assert per_rank == [{"metrics": 3}, {"metrics": 4}]
    assert torch.equal(found[0].weight, model.weight)
    assert torch.equal(found[1].module.weight, average.module.weight)
    momenta = [one.state_dict()["state"][0]["momentum_buffer"] for one in (found[2], optimizer)]
    assert torch.equal(*momenta)


class Planted:
    """What a pickle executes when it is loaded."""

    def __reduce__(self):
        return os.mkdir, (PLANTED,)


PLANTED = "planted-by-a-pickle"


def test_nothing_in_a_checkpoint_is_executed(save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save()
    torch.save({"state": Planted()}, path / "optimizer.pt")
    model = torch.nn.Linear(4, 3, bias=False)
    with pytest.raises(Exception, match=r"weights_only|WeightsUnpickler|Unsupported"):
        load_checkpoint(path, model, None, torch.optim.SGD(model.parameters(), lr=1.0))
    assert not (tmp_path / PLANTED).exists()


def test_mean_of_the_ranks_states():
    ranks = [
        {"statistics": [torch.tensor([1.0, 2.0])], "metrics": {"num_steps": 3, "sums": {}}},
        {"statistics": [torch.tensor([3.0, 6.0])], "metrics": {"num_steps": 3, "sums": {}}},
    ]
    mean = mean_of_ranks(ranks)
    assert mean["statistics"][0].tolist() == [2.0, 4.0]
    assert mean["metrics"] == {"num_steps": 3, "sums": {}}


def test_run_without_its_last_checkpoint_has_no_result(make_content):
    spec = parse_spec(make_content())
    spec.run_path.mkdir(parents=True)
    with pytest.raises(IncompleteRunError, match="epoch 0"):
        collect_result(spec.run_path, spec.schedule.num_epochs)
    assert not (spec.run_path / "result.json").exists()
