"""MLKD against its formula, with loops over samples and classes."""

import numpy as np
import pytest
import torch
from support.logit_cases import build_loss, inputs_of, kl, random_labels, random_logits, softmax

from service.distillation.losses.mlkd import gram_distance, mlkd_loss
from service.spec.losses.mlkd import Mlkd


def standardized(z):
    return np.stack([(row - row.mean()) / (row.std(ddof=1) + 1e-7) for row in z])


def pairs(p, q):
    """Sum over pairs of rows of the squared difference between their inner products."""
    return sum((p[i] @ p[j] - q[i] @ q[j]) ** 2 for i in range(len(p)) for j in range(len(p)))


def oracle(u, v, section):
    num_samples, num_classes = u.shape
    total = 0.0
    for t in section.temperatures:
        p, q = softmax(u / t), softmax(v / t)
        total += pairs(p, q) / num_samples + pairs(p.T, q.T) / num_classes
        if section.standardize:
            p, q = softmax(standardized(u) / t), softmax(standardized(v) / t)
        total += t**2 * sum(map(kl, p, q)) / num_samples
    return total


@pytest.mark.parametrize(
    "section",
    [Mlkd(), Mlkd(temperatures=(1.0,)), Mlkd(temperatures=(2.0, 3.0), standardize=True)],
)
@pytest.mark.parametrize("shape", [(3, 8), (8, 8), (20, 5)])
def test_equals_its_formula(section, shape):
    u, v = random_logits(*shape)
    expected = oracle(u.numpy(), v.numpy(), section)
    assert mlkd_loss(u, v, section).mean().item() == pytest.approx(expected, rel=1e-10)
    single = mlkd_loss(u.float(), v.float(), section)
    assert single.mean().item() == pytest.approx(expected, rel=1e-5)


def test_views_are_added():
    views = random_logits(5, 4, count=4)
    found = build_loss("mlkd", 4)(inputs_of(views, random_labels(5, num_classes=4)))
    u, v, strong_u, strong_v = (view.numpy() for view in views)
    expected = oracle(u, v, Mlkd()) + oracle(strong_u, strong_v, Mlkd())
    assert found.mean().item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("shape", [(3, 9), (9, 3), (5, 5), (200, 4)])
def test_gram_distance_has_one_value_in_both_forms(shape):
    x, y = random_logits(*shape)
    expected = (x @ x.T - y @ y.T).square().sum()
    torch.testing.assert_close(gram_distance(x, y), expected)
    torch.testing.assert_close(gram_distance(x.T, y.T), (x.T @ x - y.T @ y).square().sum())


def test_gram_distance_of_equal_rows_is_0():
    (x,) = random_logits(9, 3, count=1)
    assert gram_distance(x, x.clone()).item() == 0.0
    # Turned, their inner products are the same, though the rows are not.
    rotation = torch.linalg.qr(random_logits(3, 3, count=1, seed=1)[0]).Q
    assert gram_distance(x, x @ rotation).item() == pytest.approx(0.0, abs=1e-9)


def test_order_of_classes_does_not_matter():
    u, v = random_logits(8, 5)
    order = torch.tensor([4, 2, 0, 1, 3])
    found = mlkd_loss(u[:, order], v[:, order], Mlkd())
    torch.testing.assert_close(found, mlkd_loss(u, v, Mlkd()))


def test_equal_logits_have_no_loss():
    (u,) = random_logits(8, 5, count=1)
    assert mlkd_loss(u, u.clone(), Mlkd()).mean().item() == pytest.approx(0.0, abs=1e-12)


def test_scale_of_logits_does_not_matter_to_standardized_samples():
    """The parts about pairs, which are not standardized, are taken off."""
    u, v = random_logits(8, 5)

    def part_of_samples(v):
        on, off = (Mlkd(temperatures=(2.0,), standardize=flag) for flag in (True, False))
        plain = 4.0 * sum(map(kl, softmax(u.numpy() / 2), softmax(v.numpy() / 2))) / 8
        return (mlkd_loss(u, v, on) - mlkd_loss(u, v, off)).mean().item() + plain

    assert part_of_samples(3.0 * v) == pytest.approx(part_of_samples(v), rel=1e-6)
