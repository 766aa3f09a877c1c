"""The objective: which losses are computed, and their sum, against float64 by hand."""

import math

import pytest
import torch
from torch import nn

from service.distillation.losses import LOSSES
from service.distillation.losses.base import Context, Loss, LossInputs
from service.distillation.objective import Objective
from service.distillation.task import Trainee
from service.spec.losses import Losses

NUM_CLASSES = 5
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def make_objective(num_epochs=12, label_smoothing=0.0, **losses):
    return Objective(Losses(**losses), Context(NUM_CLASSES, num_epochs, label_smoothing))


def make_inputs(epoch=100, targets=LABELS, **changes):
    generator = torch.Generator().manual_seed(0)
    u, v = 2.0 * torch.randn(2, 6, NUM_CLASSES, generator=generator)
    given = {"student_logits": v, "teacher_logits": u, "targets": targets, "epoch": epoch}
    return LossInputs(**given | changes)


def softened_kl(inputs, temperature):
    """T^2 KL of each sample, in float64."""
    p, q = (
        torch.softmax(rows.double() / temperature, dim=1)
        for rows in (inputs.teacher_logits, inputs.student_logits)
    )
    return temperature**2 * (p * (p / q).log()).sum(1)


def cross_entropies(inputs, labels):
    """Of each sample, in float64."""
    log_q = torch.log_softmax(inputs.student_logits.double(), dim=1)
    return -log_q.gather(1, labels[:, None])[:, 0]


class Recorded(Loss):
    """A loss that counts its calls; its value is the mean of the student's logits per sample."""

    calls: list[str]

    def __init__(self, section, context):
        super().__init__(section, context)
        self.name = type(section).__name__.lower()

    def forward(self, inputs):
        self.calls.append(self.name)
        return inputs.student.mean(1)

    def telemetry(self, inputs):
        self.calls.append(f"telemetry of {self.name}")
        return {"column": inputs.student[:, 0]}


@pytest.fixture
def calls(monkeypatch):
    """The names of the losses that were computed, all of which are replaced."""
    monkeypatch.setattr(Recorded, "calls", [], raising=False)
    for name in LOSSES:
        monkeypatch.setitem(LOSSES, name, Recorded)
    return Recorded.calls


@pytest.mark.parametrize(
    ("losses", "computed"),
    [
        ({"ce": {}}, ["ce"]),
        ({"kd": {}}, ["kd"]),
        ({"ce": {}, "dtkd": {}, "kd": {}}, ["ce", "dtkd", "kd"]),
        ({"ce": {}, "dtkd": {"weight": 0}, "kd": {}}, ["ce", "kd"]),
        ({"ce": {"weight": 0}, "dkd": {"weight": 1e-9}}, ["dkd"]),
    ],
)
def test_exactly_the_losses_with_a_weight_are_computed(calls, losses, computed):
    objective = make_objective(**losses)
    value = objective(make_inputs())
    assert calls == computed
    assert list(value.parts) == computed
    assert list(objective.losses) == computed


def test_telemetry_is_computed_only_when_it_is_asked_for(calls):
    objective, inputs = make_objective(ce={}, kd={}, dtkd={"weight": 0}), make_inputs()
    objective(inputs)
    assert calls == ["ce", "kd"]
    columns = objective.telemetry(inputs)
    assert calls[2:] == ["telemetry of ce", "telemetry of kd"]
    assert columns.keys() == {"train/agreement", "ce/column", "kd/column"}
    assert torch.equal(columns["kd/column"], inputs.student_logits[:, 0])


@pytest.mark.parametrize(
    ("warmup_epochs", "epoch", "factor"),
    [
        (4, 0, 0.25), (4, 2, 0.75), (4, 3, 1.0), (4, 99, 1.0), (0, 0, 1.0), (0.5, 0, 1.0),
        (2.5, 1, 0.8), (None, 0, 1.0),
    ],
)  # fmt: skip
def test_warm_up_rises_linearly_to_one(warmup_epochs, epoch, factor):
    # Absent: a twelfth of 12 epochs.
    objective = make_objective(kd={}, warmup_epochs=warmup_epochs)
    assert objective.warmup(epoch) == pytest.approx(factor)


@pytest.mark.parametrize(("num_epochs", "epochs"), [(12, 1.0), (120, 10.0), (240, 20), (300, 20)])
def test_warm_up_is_a_twelfth_of_the_epochs_and_at_most_20(num_epochs, epochs):
    objective = make_objective(num_epochs, kd={})
    assert objective.warmup(0) == pytest.approx(1 / epochs)


@pytest.mark.parametrize(("epoch", "factor"), [(0, 0.25), (2, 0.75), (3, 1.0), (11, 1.0)])
def test_total_is_the_weighted_sum_of_the_losses(epoch, factor):
    """Of the losses, cross-entropy alone is not scaled by the warm-up."""
    objective = make_objective(
        ce={"weight": 0.25},
        kd={"weight": 0.5, "temperature": 3},
        dkd={"weight": 2, "temperature": 2, "alpha": 1, "beta": 1},
        warmup_epochs=4,
        label_smoothing=0.1,
    )
    inputs = make_inputs(epoch)
    value = objective(inputs)

    log_q = torch.log_softmax(inputs.student_logits.double(), dim=1)
    ce = 0.9 * cross_entropies(inputs, LABELS).mean() - 0.1 * log_q.mean()
    kd = softened_kl(inputs, 3.0).mean()
    # TCKD + NCKD of each sample from its probabilities.
    p, q = (torch.softmax(r.double() / 2, 1) for r in (inputs.teacher, inputs.student))
    py, qy = (rows.gather(1, LABELS[:, None])[:, 0] for rows in (p, q))
    target = py * (py / qy).log() + (1 - py) * ((1 - py) / (1 - qy)).log()
    others = p * ((p / (1 - py)[:, None]) / (q / (1 - qy)[:, None])).log() / (1 - py)[:, None]
    others = others.scatter(1, LABELS[:, None], 0.0).sum(1)
    dkd = 4 * (target + others).mean()

    expected = 0.25 * ce + factor * (0.5 * kd + 2 * dkd)
    assert value.total.item() == pytest.approx(expected.item(), rel=1e-5)
    parts = {name: part.item() for name, part in value.parts.items()}
    by_hand = {"ce": ce.item(), "kd": kd.item(), "dkd": dkd.item()}
    assert parts == pytest.approx(by_hand, rel=1e-5)
    assert not any(part.requires_grad for part in value.parts.values())


@pytest.mark.parametrize("temperature", [2.0, 3.0])
def test_entropy_weights_multiply_the_losses_of_samples(temperature):
    """By H_t (1 + H_s / ln K) / 2; cross-entropy with the labels stays as it is."""
    objective = make_objective(ce={}, kd={}, entropy_weights={"temperature": temperature})
    inputs = make_inputs()
    parts = objective(inputs).parts

    def entropies(rows):
        p = torch.softmax(rows.double() / temperature, dim=1)
        return -(p * p.log()).sum(1)

    share = entropies(inputs.student_logits) / math.log(NUM_CLASSES)
    weights = entropies(inputs.teacher_logits) * (1 + share) / 2
    expected = (weights * softened_kl(inputs, 4.0)).mean()
    assert parts["kd"].item() == pytest.approx(expected.item(), rel=1e-5)
    ce = cross_entropies(inputs, LABELS).mean()
    assert parts["ce"].item() == pytest.approx(ce.item(), rel=1e-5)


def test_entropy_weights_leave_the_cross_entropy_alone():
    inputs = make_inputs()
    with_weights = make_objective(ce={}, kd={}, entropy_weights={})(inputs)
    without = make_objective(ce={}, kd={})(inputs)
    assert torch.equal(with_weights.parts["ce"], without.parts["ce"])
    assert not torch.equal(with_weights.parts["kd"], without.parts["kd"])


def mixed_targets():
    """Shares of two labels; the last sample has one alone."""
    targets = torch.zeros(6, NUM_CLASSES)
    pairs = [(0, 1, 0.7), (1, 3, 0.5), (2, 0, 0.9), (3, 4, 0.25), (4, 2, 0.6), (0, 1, 1.0)]
    for row, (first, second, share) in enumerate(pairs):
        targets[row, first] += share
        targets[row, second] += 1 - share
    return targets, pairs


def test_losses_of_mixed_samples_are_the_expectation_over_both_labels():
    targets, pairs = mixed_targets()
    inputs = make_inputs(targets=targets)
    objective = make_objective(ce={}, dkd={"temperature": 2, "beta": 3}, kd={})
    parts = objective(inputs).parts

    expected = {"ce": 0.0, "dkd": 0.0}
    for row, (first, second, share) in enumerate(pairs):
        one = make_inputs(
            student_logits=inputs.student_logits[row : row + 1],
            teacher_logits=inputs.teacher_logits[row : row + 1],
        )
        for label, part in ((first, share), (second, 1 - share)):
            of_label = one.labeled(torch.tensor([label]))
            expected["ce"] += part * cross_entropies(one, of_label.targets).item() / 6
            expected["dkd"] += part * objective(of_label).parts["dkd"].item() / 6
    assert parts["ce"].item() == pytest.approx(expected["ce"], rel=1e-5)
    assert parts["dkd"].item() == pytest.approx(expected["dkd"], rel=1e-5)
    # Losses that do not use the labels do not see them.
    assert parts["kd"].item() == pytest.approx(softened_kl(inputs, 4.0).mean().item(), rel=1e-5)


def test_targets_of_one_label_are_that_label():
    objective = make_objective(ce={}, dkd={}, nckd={})
    whole = nn.functional.one_hot(LABELS, NUM_CLASSES).float()
    parts = objective(make_inputs(targets=whole)).parts
    torch.testing.assert_close(parts, objective(make_inputs()).parts)


def test_masked_positions_do_not_count():
    """Of images with positions, the total is that of the rows that count."""
    generator = torch.Generator().manual_seed(1)
    u, v = torch.randn(2, 2, NUM_CLASSES, 3, generator=generator)
    labels = torch.tensor([[0, 1, 2], [3, 4, 0]])
    mask = torch.tensor([[True, False, True], [True, True, False]])
    objective = make_objective(ce={}, kd={}, dtkd={}, dkd={}, entropy_weights={})
    found = objective(LossInputs(v, labels, 100, u, mask=mask))
    rows = [logits.movedim(1, -1)[mask] for logits in (v, u)]
    alone = objective(LossInputs(rows[0], labels[mask], 100, rows[1]))
    torch.testing.assert_close(found.parts, alone.parts)
    torch.testing.assert_close(found.total, alone.total)


def test_teacher_gets_no_gradient():
    inputs = make_inputs()
    u, v = inputs.teacher_logits.requires_grad_(), inputs.student_logits.requires_grad_()
    losses = {"ce": {}, "dtkd": {}, "kd": {}, "dkd": {}, "tckd": {}, "nckd": {}}
    make_objective(**losses, entropy_weights={})(inputs).total.backward()
    assert u.grad is None
    assert v.grad.abs().sum() > 0


def test_parameters_of_a_loss_are_trained_with_the_student(monkeypatch):
    class Learned(Recorded):
        def __init__(self, section, context):
            super().__init__(section, context)
            self.theta = nn.Parameter(torch.ones(()))
            self.register_buffer("mean", torch.zeros(3))

        def forward(self, inputs):
            return self.theta * inputs.student.mean(1)

    monkeypatch.setitem(LOSSES, "kd", Learned)
    student = nn.Linear(4, NUM_CLASSES)
    trainee = Trainee(student, make_objective(ce={}, kd={"weight": 2}))
    theta = trainee.objective.losses["kd"].theta
    assert {id(p) for p in trainee.parameters()} == {*map(id, student.parameters()), id(theta)}
    assert trainee.objective.state_dict().keys() == {"losses.kd.theta", "losses.kd.mean"}
    inputs = make_inputs()
    trainee.objective(inputs).total.backward()
    assert theta.grad.item() == pytest.approx(2 * inputs.student_logits.mean().item(), rel=1e-5)
    # A loss without a weight has no parameters to train.
    assert list(make_objective(ce={}, kd={"weight": 0}).parameters()) == []
