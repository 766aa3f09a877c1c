"""DIST against its formula, sample by sample and class by class."""

import numpy as np
import pytest
import torch
from support.logit_cases import random_logits, softmax

from service.distillation.losses.dist import correlations, dist_loss
from service.spec.losses.dist import Dist


def pearson(x, y):
    x, y = x - x.mean(), y - y.mean()
    return (x @ y) / (np.sqrt(x @ x) * np.sqrt(y @ y) + 1e-8)


def oracle(u, v, section):
    p, q = softmax(u / section.temperature), softmax(v / section.temperature)
    over_classes = np.mean([pearson(p[b], q[b]) for b in range(len(p))])
    over_samples = np.mean([pearson(p[:, k], q[:, k]) for k in range(p.shape[1])])
    total = section.beta * (1 - over_classes) + section.gamma * (1 - over_samples)
    return section.temperature**2 * total


@pytest.mark.parametrize(
    "section", [Dist(), Dist(temperature=4.0), Dist(beta=0.5, gamma=3.0, temperature=2.0)]
)
@pytest.mark.parametrize("shape", [(16, 10), (3, 10), (40, 3)])
def test_equals_its_formula(section, shape):
    u, v = random_logits(*shape)
    expected = oracle(u.numpy(), v.numpy(), section)
    assert dist_loss(u, v, section).mean().item() == pytest.approx(expected, abs=1e-10)
    single = dist_loss(u.float(), v.float(), section)
    assert single.mean().item() == pytest.approx(expected, rel=1e-4)


def test_predictions_that_a_line_maps_to_another_have_no_loss():
    (p,) = random_logits(8, 5, count=1)
    p = torch.softmax(p, dim=1)
    q = 0.5 * p + 0.1
    assert dist_loss(p.log(), q.log(), Dist()).mean().item() == pytest.approx(0.0, abs=1e-5)


def test_order_of_classes_does_not_matter():
    u, v = random_logits(8, 5)
    order = torch.tensor([4, 2, 0, 1, 3])
    found = dist_loss(u[:, order], v[:, order], Dist())
    torch.testing.assert_close(found, dist_loss(u, v, Dist()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [0, 1])
def test_constant_side_has_correlation_0_without_a_gradient(dtype, dim):
    # The mean of ten times 0.1 is not 0.1 in floating point.
    constant = torch.full((10, 10), 0.1, dtype=dtype, requires_grad=True)
    varied = torch.softmax(random_logits(10, 10, count=1)[0].to(dtype), dim=1)
    found = correlations(varied, constant, dim)
    found.sum().backward()
    assert found.abs().max() == 0
    assert constant.grad.abs().max() == 0


def test_correlation_over_one_sample_is_0():
    u, v = random_logits(1, 5)
    assert dist_loss(u, v, Dist(beta=0.0, gamma=2.0)).mean().item() == 2.0


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        dist_loss(torch.zeros(2, 3), torch.zeros(2, 4), Dist())
