"""What the objective says about the samples, and the running sums of its losses."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from service.distillation.losses import LOSSES
from service.distillation.losses.base import Context, Loss, LossInputs
from service.distillation.losses.dtkd import dtkd_loss
from service.distillation.objective import Objective
from service.spec.losses import Losses
from service.spec.losses.dtkd import Dtkd

GAP_COLUMNS = {
    "teacher_temperature",
    "student_temperature",
    "gap_before",
    "gap_after",
    "clamped_share",
}


NUM_EPOCHS = 10


def make_objective(**losses):
    return Objective(Losses(**losses), Context(num_classes=5, num_epochs=NUM_EPOCHS))


def make_inputs(scale=1.0):
    generator = torch.Generator().manual_seed(0)
    u, v = 2.0 * torch.randn(2, 8, 5, generator=generator)
    return LossInputs(v, torch.arange(8) % 5, epoch=0, teacher_logits=scale * u)


def centered_float64(logits):
    return logits.double() - logits.double().mean(1, keepdim=True)


def gap(inputs, teacher_temperature, student_temperature):
    u, v = map(centered_float64, (inputs.teacher_logits, inputs.student_logits))
    teacher = torch.logsumexp(u / teacher_temperature, dim=1)
    return (teacher - torch.logsumexp(v / student_temperature, dim=1)).abs()


def test_telemetry_measures_the_gap():
    objective = make_objective(dtkd={"sharpness": "logsumexp", "base_temperature": 3})
    inputs = make_inputs()
    columns = objective.telemetry(inputs)
    assert columns.keys() == {"train/agreement"} | {f"dtkd/{name}" for name in GAP_COLUMNS}
    assert all(column.shape == (8,) for column in columns.values())
    before = gap(inputs, 3.0, 3.0)
    torch.testing.assert_close(columns["dtkd/gap_before"].double(), before, rtol=1e-4, atol=1e-6)
    teacher, student = (columns[f"dtkd/{side}_temperature"] for side in ("teacher", "student"))
    torch.testing.assert_close(teacher + student, torch.full((8,), 6.0))
    after = gap(inputs, teacher.double()[:, None], student.double()[:, None])
    torch.testing.assert_close(columns["dtkd/gap_after"].double(), after, rtol=1e-4, atol=1e-5)
    clamped = columns["dtkd/clamped_share"] == 1
    assert not clamped.all()
    assert columns["dtkd/gap_after"][~clamped].max() < 1e-5
    same = inputs.teacher_logits.argmax(1) == inputs.student_logits.argmax(1)
    assert columns["train/agreement"].tolist() == same.float().tolist()


def test_share_of_clamped_samples_is_reported():
    """Logits of the teacher that are far larger than the student's."""
    columns = make_objective(dtkd={"floor": 0.4}).telemetry(inputs := make_inputs(scale=100.0))
    x, y = inputs.teacher_logits.amax(1), inputs.student_logits.amax(1)
    share = x / (x + y)
    expected = ((x <= 0) | (y <= 0) | (share < 0.4) | (share > 0.6)).float()
    assert expected.sum() > 0
    assert columns["dtkd/clamped_share"].tolist() == expected.tolist()
    high = columns["dtkd/teacher_temperature"][expected == 1]
    assert high.max().item() == pytest.approx(0.6 * 8.0)


def test_each_rule_of_temperatures_describes_what_it_chose():
    losses = {
        "kd": {"temperature": {"kind": "dynamic", "base_temperature": 2}},
        "dkd": {"temperature": {"kind": "teacher_max", "scaled_max": 2.0, "minimum": 1.2}},
        "tckd": {"temperature": {"kind": "linear", "start": 8, "end": 2}},
        "nckd": {"temperature": 4},
    }
    inputs = replace(make_inputs(), epoch=3)
    columns = make_objective(ce={}, **losses).telemetry(inputs)
    names = {f"kd/{name}" for name in GAP_COLUMNS}
    assert columns.keys() == {
        *names,
        "train/agreement",
        "dkd/sample_temperature",
        "dkd/clamped_share",
        "tckd/temperature",
    }
    expected = gap(inputs, 2.0, 2.0)
    torch.testing.assert_close(columns["kd/gap_before"].double(), expected, rtol=1e-4, atol=1e-5)
    u = inputs.teacher_logits.double()
    largest = u.amax(dim=1) - u.mean(dim=1)
    expected = (largest / 2).clamp_min(1.2)
    torch.testing.assert_close(columns["dkd/sample_temperature"].double(), expected)
    is_clamped = largest / 2 < 1.2
    assert 0 < is_clamped.sum() < len(u)
    assert torch.equal(columns["dkd/clamped_share"], is_clamped.float())
    # In the fourth of the epochs.
    start_to_end = torch.linspace(8, 2, NUM_EPOCHS)[3]
    assert torch.equal(columns["tckd/temperature"], start_to_end.expand(len(u)))


@pytest.mark.parametrize("name", LOSSES)
def test_samples_with_mixed_labels_are_described_for_the_larger_one(name):
    generator = torch.Generator().manual_seed(0)
    u, v, strong_u, strong_v = torch.randn(4, 3, 9, generator=generator)
    targets = torch.zeros(3, 9)
    targets[0, 0], targets[0, 1], targets[1, 7], targets[1, 2], targets[2, 4] = (
        0.7,
        0.3,
        0.4,
        0.6,
        1,
    )
    context = Context(9, NUM_EPOCHS, classifier=torch.eye(9))
    objective = Objective(Losses(**{"ce": {}, name: {}}), context)
    mixed = LossInputs(v, targets, 0, u, strong_v, strong_u)
    assert torch.isfinite(objective(mixed).total)
    found = objective.telemetry(mixed)
    expected = objective.telemetry(mixed.labeled(torch.tensor([0, 2, 4])))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_without_a_teacher_there_is_no_telemetry():
    inputs = LossInputs(torch.zeros(2, 5), torch.tensor([0, 1]), epoch=0)
    assert make_objective(ce={}).telemetry(inputs) == {}


def test_telemetry_keeps_no_graph():
    inputs = make_inputs()
    inputs.student_logits.requires_grad_()
    columns = make_objective(dtkd={}).telemetry(inputs)
    assert not any(column.requires_grad for column in columns.values())


def test_agreement_needs_valid_logits_of_both():
    u = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [torch.nan, 0.0]])
    v = torch.tensor([[1.0, 0.0], [0.0, 1.0], [torch.inf, 3.0], [1.0, 0.0]])
    inputs = LossInputs(v, torch.zeros(4, dtype=torch.int64), epoch=0, teacher_logits=u)
    objective = Objective(Losses(ce={}), Context(num_classes=2, num_epochs=1))
    assert objective.telemetry(inputs)["train/agreement"].tolist() == [1.0, 0.0, 0.0, 0.0]


def test_temperatures_are_constants_in_the_gradient_if_detached():
    gradients = []
    for detach in (False, True):
        inputs = make_inputs()
        v = inputs.student_logits.requires_grad_()
        make_objective(dtkd={"weight": 1, "detach": detach}, warmup_epochs=0)(
            inputs
        ).total.backward()
        gradients.append(v.grad)
        by_function = v.detach().clone().requires_grad_()
        dtkd_loss(inputs.teacher, by_function, Dtkd(detach=detach)).mean().backward()
        torch.testing.assert_close(gradients[-1], by_function.grad)
    assert not torch.allclose(*gradients)


class Counting(Loss):
    """Adds up logits during an epoch, and keeps the mean over the workers."""

    def __init__(self, section, context):
        super().__init__(section, context)
        self.register_buffer("sum", torch.zeros(()))
        self.register_buffer("last", torch.full((), -1.0))

    def forward(self, inputs):
        self.sum += inputs.weight_in_sums * inputs.student.detach().sum()
        return inputs.student.mean(1)

    def running_sums(self):
        return [self.sum]

    def end_epoch(self):
        self.last.copy_(self.sum)
        self.sum.zero_()


@pytest.mark.parametrize("world_size", [1, 2])
def test_running_sums_are_averaged_over_the_workers_at_the_end_of_an_epoch(monkeypatch, world_size):
    """The other worker's sum is 10 higher."""
    reduced = []

    def add_other_worker(tensor):
        reduced.append(tensor.item())
        tensor += tensor.clone() + 10.0

    monkeypatch.setattr(dist, "all_reduce", add_other_worker)
    monkeypatch.setitem(LOSSES, "kd", Counting)
    objective = make_objective(ce={}, kd={})
    counting = objective.losses["kd"]
    inputs = LossInputs(
        torch.ones(2, 5), torch.tensor([0, 1]), 0, torch.ones(2, 5), weight_in_sums=3
    )
    objective(inputs)
    objective(inputs)
    assert [one.item() for one in objective.running_sums()] == [60.0]
    objective.end_epoch(world_size)
    assert reduced == ([] if world_size == 1 else [60.0])
    assert counting.last.item() == (60.0 if world_size == 1 else 65.0)
    assert counting.sum.item() == 0.0


def test_losses_without_running_sums_are_not_reduced(monkeypatch):
    def fail(_):
        raise AssertionError

    monkeypatch.setattr(dist, "all_reduce", fail)
    objective = make_objective(ce={}, kd={}, dtkd={})
    objective.end_epoch(2)
    assert objective.running_sums() == []
