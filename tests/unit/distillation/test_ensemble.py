"""The mean of several teachers, against float64."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp
from torch import nn

from service.distillation.ensemble import (
    TeacherEnsemble,
    logits_of_mean_probabilities,
    mean_logits,
)
from service.distillation.pixels import FrozenTeacher
from service.spec.data_sections import Normalization

WEIGHTS = (1.0, 2.5, 0.5)
SHARES = torch.tensor(WEIGHTS) / sum(WEIGHTS)
MEANS = (mean_logits, logits_of_mean_probabilities)


def make_logits(scale=5.0, dtype=torch.float32):
    """Of three teachers, eight samples, six classes."""
    generator = torch.Generator().manual_seed(3)
    return (scale * torch.randn(3, 8, 6, generator=generator)).to(dtype)


def mean_by_hand(mean, logits):
    """In float64, with numpy."""
    weights = np.array(WEIGHTS) / sum(WEIGHTS)
    rows = logits.double().numpy()
    if mean is mean_logits:
        return torch.from_numpy(np.average(rows, axis=0, weights=weights))
    log_mean = logsumexp(log_softmax(rows, axis=2), axis=0, b=weights[:, None, None])
    constant = np.average(logsumexp(rows, axis=2), axis=0, weights=weights)
    return torch.from_numpy(log_mean + constant[:, None])


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("scale", [0.1, 5.0, 20.0])
def test_means_match_float64(mean, scale):
    logits = make_logits(scale)
    expected = mean_by_hand(mean, logits)
    torch.testing.assert_close(mean(logits, SHARES).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mean", MEANS)
def test_equal_teachers_give_their_own_logits(mean):
    logits = make_logits()[:1].expand(3, -1, -1)
    torch.testing.assert_close(mean(logits, SHARES), logits[0], rtol=1e-6, atol=1e-6)


def test_mean_probabilities_are_those_of_the_softmax():
    logits = make_logits()
    probabilities = (SHARES[:, None, None] * logits.softmax(dim=2)).sum(dim=0)
    found = logits_of_mean_probabilities(logits, SHARES).softmax(dim=1)
    torch.testing.assert_close(found, probabilities, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mean", MEANS)
def test_means_are_stable_where_probabilities_underflow(mean):
    logits = make_logits(scale=1e4)
    expected = mean_by_hand(mean, logits)
    torch.testing.assert_close(mean(logits, SHARES).double(), expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("mean", MEANS)
def test_class_that_all_teachers_mask_stays_masked(mean):
    logits = make_logits()
    logits[:, :, 2] = float("-inf")
    found = mean(logits, SHARES)
    assert (found[:, 2] == float("-inf")).all()
    assert found[:, [0, 1, 3, 4, 5]].isfinite().all()


class Constant(nn.Module):
    """Logits of the dtype that autocast chooses."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images):
        return torch.matmul(torch.ones(len(images), 1), self.logits[None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ensemble_averages_its_members_in_float32(dtype):
    logits = make_logits(dtype=torch.bfloat16).float()[:, 0]
    members = [FrozenTeacher(Constant(row), Normalization()) for row in logits]
    teacher = TeacherEnsemble(members, WEIGHTS, "logits")
    pixels = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = teacher(pixels)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert not found.is_inference()
    expected = mean_by_hand(mean_logits, logits[:, None]).expand(2, -1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    assert list(teacher.members) == members
