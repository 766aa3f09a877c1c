"""What losses have learned is in a checkpoint, and what an unmade step has added is taken back."""

import pytest
import torch
from support.training_runs import CPU
from torch import Tensor, nn

from service.distillation.losses import LOSSES
from service.distillation.losses.base import Context, Loss, LossInputs
from service.distillation.objective import Objective
from service.distillation.task import Trainee
from service.models.build import build_model
from service.run.progress import Progress
from service.spec.loading import parse_spec
from service.spec.losses import Losses
from service.training.checkpoint import (
    OBJECTIVE_NAME,
    Snapshot,
    copied_to_cpu,
    cpu_state_dict,
    is_intact,
    load_checkpoint,
    save_checkpoint,
)
from service.training.distributed import World
from service.training.metrics import IntervalMetrics
from service.training.optimizers import build_optimizer
from service.training.state import TrainState


class Learned(Loss):
    """A loss with a parameter, and a sum over the epoch."""

    total: Tensor

    def __init__(self, section, context):
        super().__init__(section, context)
        self.theta = nn.Parameter(torch.ones(()))
        self.register_buffer("total", torch.zeros(2))

    def forward(self, inputs):
        self.total += inputs.student.detach().sum()
        return self.theta * inputs.student.mean(1)

    def running_sums(self):
        return [self.total]


@pytest.fixture
def make_trained(make_content, teacher, monkeypatch):
    """A function that makes a spec, its trainee, and its optimizer, whose loss has a parameter."""
    monkeypatch.setitem(LOSSES, "kd", Learned)

    def make():
        spec = parse_spec(make_content(teacher=teacher, losses={"ce": {}, "kd": {}}))
        objective = Objective(Losses(ce={}, kd={}), Context(4, 2))
        trainee = Trainee(build_model("cifar:tiny_cnn", 4), objective)
        return spec, trainee, build_optimizer(trainee, spec.optimizer)

    return make


def snapshot_of(trainee, optimizer):
    return Snapshot(
        cpu_state_dict(trainee.student),
        None,
        copied_to_cpu(optimizer.state_dict()),
        [],
        Progress(step=3),
        objective=cpu_state_dict(trainee.objective),
    )


def test_parameters_of_losses_are_saved_and_restored(make_trained, tmp_path):
    _, trainee, optimizer = make_trained()
    learned = trainee.objective.losses["kd"]
    with torch.no_grad():
        learned.theta.fill_(0.75)
    path = tmp_path / "checkpoint_0000000003"
    save_checkpoint(path, "hash", snapshot_of(trainee, optimizer))
    assert is_intact(path)

    _, other, other_optimizer = make_trained()
    load_checkpoint(path, other.student, None, other_optimizer, other.objective)
    assert other.objective.losses["kd"].theta.item() == 0.75

    content = bytearray((path / OBJECTIVE_NAME).read_bytes())
    content[-1] ^= 1
    (path / OBJECTIVE_NAME).write_bytes(content)
    assert not is_intact(path)
    (path / OBJECTIVE_NAME).unlink()
    assert not is_intact(path)


def test_objective_without_state_has_no_file(tmp_path):
    trainee = Trainee(nn.Linear(2, 2), Objective(Losses(ce={}, kd={}), Context(2, 1)))
    optimizer = torch.optim.SGD(trainee.parameters())
    save_checkpoint(tmp_path / "checkpoint", "hash", snapshot_of(trainee, optimizer))
    assert not (tmp_path / "checkpoint" / OBJECTIVE_NAME).exists()
    load_checkpoint(tmp_path / "checkpoint", trainee.student, None, optimizer, trainee.objective)


def test_running_sums_of_a_step_without_an_update_are_taken_back(make_trained):
    spec, trainee, optimizer = make_trained()
    metrics = IntervalMetrics(World(0, 1, CPU, 1), trainee.objective.telemetry)
    world = World(0, 1, CPU, 1)
    state = TrainState(spec, world, trainee, None, optimizer, metrics, None, None)
    inputs = LossInputs(torch.ones(3, 4), torch.tensor([0, 1, 2]), 0, torch.ones(3, 4))
    trainee.objective(inputs)
    before = state.snapshot()
    trainee.objective(inputs)
    total = trainee.objective.losses["kd"].total
    assert total.tolist() == [24.0, 24.0]
    state.undo_step(before, torch.tensor(False))
    assert total.tolist() == [24.0, 24.0]
    state.undo_step(before, torch.tensor(True))
    assert total.tolist() == [12.0, 12.0]
