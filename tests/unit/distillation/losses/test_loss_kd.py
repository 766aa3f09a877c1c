"""KD at the temperatures of each rule, against its formula."""

import math

import pytest
import torch
from support import loss_oracles as oracles
from support.loss_inputs import (
    NUM_CLASSES,
    assert_equals_oracle,
    assert_gradient,
    by_sample,
    random_logits,
)

from service.distillation.losses.base import Context, LossInputs
from service.distillation.losses.dtkd import dtkd_loss
from service.distillation.losses.kd import KdLoss, kd_loss
from service.distillation.temperature import Temperatures
from service.spec.losses.dtkd import Dtkd
from service.spec.losses.kd import Kd

NUM_EPOCHS = 11
DYNAMIC = {"kind": "dynamic", "base_temperature": 3.0, "floor": 0.01}


def kd_by(u, v, epoch=0, **section):
    """The loss with a section's settings, in an epoch of 11."""
    loss = KdLoss(Kd.model_validate(section), Context(NUM_CLASSES, NUM_EPOCHS))
    return loss(LossInputs(v, torch.zeros(len(v), dtype=torch.long), epoch, u))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 4.0])
def test_equals_its_formula(temperature):
    u, v, _ = random_logits(0)
    expected = by_sample(lambda a, b: oracles.kd(a, b, temperature), u, v)
    assert_equals_oracle(kd_loss(u, v, temperature), expected)
    assert_equals_oracle(kd_by(u, v, temperature=temperature), expected)
    assert_gradient(lambda a, b: kd_loss(a, b, temperature), u, v)


def test_pairs_of_temperatures_multiply_to_the_weight():
    u, v, _ = random_logits(1)
    teacher = torch.linspace(1, 5, len(u), dtype=torch.float64)
    student = torch.linspace(3, 2, len(u), dtype=torch.float64)
    pairs = Temperatures(teacher[:, None], student[:, None], torch.zeros(len(u)).bool())
    expected = by_sample(oracles.kd, u, v, teacher, student)
    assert_equals_oracle(kd_loss(u, v, pairs), expected)


@pytest.mark.parametrize(
    ("kind", "epoch", "temperature"),
    [
        ("linear", 0, 8.0),
        ("linear", 3, 8.0 - 0.3 * 6.0),
        ("linear", 10, 2.0),
        ("cosine", 0, 8.0),
        ("cosine", 3, 2.0 + 6.0 * 0.5 * (1.0 + math.cos(0.3 * math.pi))),
        ("cosine", 10, 2.0),
    ],
)
def test_schedules_reach_their_end_in_the_last_epoch(kind, epoch, temperature):
    u, v, _ = random_logits(2)
    found = kd_by(u, v, epoch, temperature={"kind": kind, "start": 8.0, "end": 2.0})
    assert_equals_oracle(found, by_sample(lambda a, b: oracles.kd(a, b, temperature), u, v))


def test_teacher_max_makes_the_teacher_as_sharp_on_each_sample():
    u, v, _ = random_logits(3)
    u[0] *= 1e-3
    rule = {"kind": "teacher_max", "scaled_max": 1.5, "minimum": 0.6}

    def oracle(a, b):
        return oracles.kd(a, b, max((a.max() - a.mean()) / 1.5, 0.6))

    found = kd_by(u, v, temperature=rule)
    assert_equals_oracle(found, by_sample(oracle, u, v))
    assert_gradient(lambda a, b: kd_by(a, b, temperature=rule), u, v)


def test_dynamic_temperatures_are_those_of_the_released_code():
    u, v, _ = random_logits(4)

    def oracle(a, b):
        return oracles.kd(a, b, *oracles.released_temperatures(a, b, 3.0))

    assert_equals_oracle(kd_by(u, v, temperature=DYNAMIC), by_sample(oracle, u, v))
    assert_gradient(lambda a, b: kd_by(a, b, temperature=DYNAMIC), u, v)


@pytest.mark.parametrize("sharpness", ["max", "norm", "logsumexp"])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("standardize", [False, True])
def test_dynamic_temperatures_make_it_dtkd(sharpness, detach, standardize):
    u, v, _ = random_logits(5)
    settings = {"base_temperature": 3.0, "sharpness": sharpness, "detach": detach, "floor": 0.1}
    rule = {"kind": "dynamic", **settings}
    losses = {
        "kd": lambda z: kd_by(u, z, temperature=rule, standardize=standardize),
        "dtkd": lambda z: dtkd_loss(u, z, Dtkd(**settings, standardize=standardize)),
    }
    values, gradients = {}, {}
    for name, loss in losses.items():
        student = v.clone().requires_grad_()
        values[name] = loss(student)
        (gradients[name],) = torch.autograd.grad(values[name].sum(), student)
    assert torch.equal(values["kd"], values["dtkd"])
    assert torch.equal(gradients["kd"], gradients["dtkd"])


@pytest.mark.parametrize("temperature", [2.0, 4.0])
def test_standardized_logits_are_those_of_the_formula(temperature):
    u, v, _ = random_logits(6)
    expected = by_sample(lambda a, b: oracles.ls(a, b, temperature), u, v)
    assert_equals_oracle(kd_by(u, v, temperature=temperature, standardize=True), expected)
    assert_gradient(lambda a, b: kd_by(a, b, temperature=temperature, standardize=True), u, v)


def test_loss_of_equal_logits_is_zero():
    u, _, _ = random_logits(7)
    assert kd_loss(u.float(), u.float(), 4.0).abs().max() < 1e-6


def test_only_temperatures_of_single_samples_have_telemetry():
    u, v, labels = random_logits(8)
    inputs = LossInputs(v, labels, 0, u)
    context = Context(NUM_CLASSES, NUM_EPOCHS)
    assert KdLoss(Kd(), context).telemetry(inputs) == {}
    columns = KdLoss(Kd.model_validate({"temperature": DYNAMIC}), context).telemetry(inputs)
    teacher = by_sample(lambda a, b: oracles.released_temperatures(a, b, 3.0)[0], u, v)
    torch.testing.assert_close(columns["teacher_temperature"], teacher)
    torch.testing.assert_close(columns["student_temperature"], 6.0 - teacher)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_bad_temperatures_are_refused(temperature):
    u, v, _ = random_logits(9)
    with pytest.raises(ValueError, match="temperature"):
        kd_loss(u, v, temperature)


def test_other_shapes_are_refused():
    u, v, _ = random_logits(10)
    with pytest.raises(ValueError, match="one shape"):
        kd_loss(u, v[:, :-1], 4.0)
    with pytest.raises(ValueError, match=r"\[N, K\]"):
        kd_loss(u[0], v[0], 4.0)


def test_under_autocast_it_is_computed_in_float32():
    """Half-precision logits are exact in float32: so is the loss, whatever autocast is on."""
    u, v = (part.bfloat16() for part in random_logits(11)[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kd_loss(u, v, 4.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), kd_loss(u.double(), v.double(), 4.0), rtol=1e-5, atol=1e-6
    )
