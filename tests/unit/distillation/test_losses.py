"""Losses against the published formulas in float64, written out sample by sample."""

import math

import numpy as np
import pytest
import torch

from service.distillation import dtkd_loss, kd_loss
from service.distillation.losses import cross_entropy


def softmax(z):
    e = [math.exp(value - max(z)) for value in z]
    return [value / sum(e) for value in e]


def kl(p, q):
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def released_loss(u, v, tau):
    """The authors' DTKD loss: signed maxima, T_tea T_stu KL, mean over the batch."""
    total = 0.0
    for teacher, student in zip(u, v, strict=True):
        x, y = max(teacher), max(student)
        t_tea, t_stu = 2 * x * tau / (x + y), 2 * y * tau / (x + y)
        p, q = softmax([z / t_tea for z in teacher]), softmax([z / t_stu for z in student])
        total += t_tea * t_stu * kl(p, q)
    return total / len(u)


@pytest.fixture
def logits():
    generator = np.random.default_rng(5)
    return generator.normal(0, 4, (16, 10)), generator.normal(0, 1.5, (16, 10))


def test_dtkd_equals_released_code(logits):
    u, v = logits
    found = dtkd_loss(torch.tensor(u).float(), torch.tensor(v).float(), 4.0)
    assert found.item() == pytest.approx(released_loss(u, v, 4.0), rel=1e-5)


def test_dtkd_gradient_equals_released_code(logits):
    u, v = logits
    student = torch.tensor(v, requires_grad=True)
    dtkd_loss(torch.tensor(u), student, 4.0).backward()
    for row, column in ((0, int(v[0].argmax())), (0, int(v[0].argmin())), (9, 3)):
        high, low = v.copy(), v.copy()
        high[row, column] += 1e-5
        low[row, column] -= 1e-5
        slope = (released_loss(u, high, 4.0) - released_loss(u, low, 4.0)) / 2e-5
        assert student.grad[row, column].item() == pytest.approx(slope, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_equals_its_formula(logits, temperature):
    u, v = logits
    expected = sum(
        temperature**2 * kl(softmax(list(a / temperature)), softmax(list(b / temperature)))
        for a, b in zip(u, v, strict=True)
    ) / len(u)
    assert kd_loss(torch.tensor(u), torch.tensor(v), temperature).item() == pytest.approx(expected)


def test_no_gradient_reaches_the_teacher(logits):
    u, v = (torch.tensor(z, requires_grad=True) for z in logits)
    (dtkd_loss(u, v, 4.0) + kd_loss(u, v, 4.0)).backward()
    assert u.grad is None
    assert v.grad.abs().sum() > 0


def test_loss_of_equal_logits_is_zero(logits):
    u = torch.tensor(logits[0]).float()
    assert dtkd_loss(u, u.clone(), 4.0).item() == pytest.approx(0.0, abs=1e-6)
    assert kd_loss(u, u.clone(), 4.0).item() == pytest.approx(0.0, abs=1e-6)


def test_label_smoothing_mixes_in_the_uniform_distribution():
    logits, smoothing = [2.0, 0.0, -1.0], 0.1
    q = softmax(logits)
    expected = -(1 - smoothing) * math.log(q[0]) - smoothing / 3 * sum(map(math.log, q))
    found = cross_entropy(torch.tensor([logits]), torch.tensor([0]), smoothing)
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", [dtkd_loss, kd_loss])
def test_losses_of_half_precision_under_autocast_are_computed_in_float32(loss, logits):
    """Half-precision logits are exact in float32: so is the loss, whatever autocast is on."""
    u, v = (torch.tensor(part, dtype=torch.bfloat16) for part in logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(u, v, 4.0)
    assert found.dtype == torch.float32
    expected = loss(u.double(), v.double(), 4.0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
