"""The C kernel of the fused losses against the plain functions in float64."""

import math

import pytest
import torch
from support.fused_cases import (
    RULES,
    TERMS,
    WEIGHTS,
    assert_broken_rows_stay_alone,
    assert_equals_plain,
    errors,
    plain_result,
    random_rows,
)

from service.distillation.fused.native import fused_on_cpu
from service.distillation.fused.terms import CrossEntropyTerm, Rows, SoftenedTerm

SCALES = [(4.0, 1.5), (0.3, 1.0), (30.0, 20.0), (300.0, 1e-3), (1e-3, 300.0)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("num_classes", [2, 3, 16, 100, 1003])
def test_all_terms_together_equal_the_plain_functions(num_classes, scales, rule):
    rows = random_rows(num_classes, scales=scales)
    assert_equals_plain(fused_on_cpu, rows, TERMS[rule], WEIGHTS)


@pytest.mark.parametrize("rule", RULES)
def test_many_classes(rule):
    assert_equals_plain(fused_on_cpu, random_rows(21_000, num_rows=4), TERMS[rule], WEIGHTS)


@pytest.mark.parametrize(
    "term",
    [
        CrossEntropyTerm(0.0),
        CrossEntropyTerm(0.3),
        CrossEntropyTerm(1.0),
        SoftenedTerm(1.0),
        SoftenedTerm(20.0),
        *(SoftenedTerm(4.0, rule, 0.05, detach) for rule in RULES for detach in (True, False)),
        # A floor that clamps nearly all rows.
        *(SoftenedTerm(2.0, rule, 0.45) for rule in RULES),
    ],
)
@pytest.mark.parametrize("weighted", [True, False])
def test_each_term_alone(term, weighted):
    rows = random_rows(10, num_rows=40)
    assert_equals_plain(fused_on_cpu, rows if weighted else rows._replace(weights=None), [term])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scales", [(1e-2, 3e-2), (1e-3, 1e-3)])
def test_nearly_equal_predictions_are_no_less_exact_than_plain_in_float32(scales, rule):
    """Their divergences are differences of nearly equal numbers, in both."""
    rows, terms = random_rows(100, scales=scales), [SoftenedTerm(4.0, rule, 0.05)]
    rows.teacher[:], rows.student[:] = rows.teacher.frac(), rows.student.frac()
    expected = plain_result(rows, terms, [1.0])
    found = errors(fused_on_cpu(rows, terms, [1.0], with_gradient=True), expected)
    plain = errors(plain_result(rows, terms, [1.0], torch.float32), expected)
    assert found[0] <= 1.5 * plain[0]
    assert found[1] <= 1.5 * plain[1]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("u", "v"),
    [
        ([6.0, 0.0, 0.0], [-3.0, -6.0, -6.0]),
        ([1.0, -2.0, -2.0], [-1.0, -2.5, -2.5]),
        ([6.0, 0.0, 0.0], [0.0, -3.0, -3.0]),
        ([0.0, -3.0, -3.0], [0.0, -1.5, -1.5]),
        ([-1.0, -7.0, -7.0], [-5.0, -8.0, -8.0]),
        ([450.0, 0.0, 0.0], [1.5, 0.0, 0.0]),
        ([1.5, 0.0, 0.0], [450.0, 0.0, 0.0]),
        ([1.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        ([1.0, -9.0, 0.5], [0.5, -4.0, 1.0]),
    ],
)
def test_rows_where_a_rule_is_undefined_or_clamped(rule, u, v):
    rows = Rows(torch.tensor([v]), torch.tensor([u]), None, None)
    # The divergence of some is 0.
    assert_equals_plain(fused_on_cpu, rows, [SoftenedTerm(4.0, rule, 0.05)], at_least=0.1)


@pytest.mark.parametrize("rule", RULES)
def test_equal_logits_everywhere_are_a_loss_of_0(rule):
    rows = Rows(torch.full((2, 20), 3.0), torch.zeros(2, 20), torch.tensor([0, 1]), None)
    values, gradient = fused_on_cpu(rows, [SoftenedTerm(4.0, rule, 0.05)], [1], with_gradient=True)
    assert values.abs().max() <= 1e-6
    assert gradient.abs().max() <= 1e-6


@pytest.mark.parametrize("rule", RULES)
def test_broken_rows_are_broken_alone(rule):
    assert_broken_rows_stay_alone(fused_on_cpu, rule)


def test_cross_entropy_of_masked_classes():
    """Their logits are -inf; the label's is not."""
    v = torch.tensor([[1.0, -math.inf, 0.0, -math.inf]])
    rows = Rows(v, None, torch.tensor([0]), None)
    values, gradient = fused_on_cpu(rows, [CrossEntropyTerm(0.0)], [1.0], with_gradient=True)
    share = 1 / (1 + math.exp(-1))
    assert values[0].item() == pytest.approx(-math.log(share), rel=1e-6)
    expected = torch.tensor([[share - 1, 0.0, 1 - share, 0.0]])
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("label", [-1, -100, 3])
def test_a_label_that_is_no_class_is_refused(label):
    rows = Rows(torch.zeros(2, 3), None, torch.tensor([0, label]), None)
    with pytest.raises(IndexError, match=f"label {label} is not one of 3 classes"):
        fused_on_cpu(rows, [CrossEntropyTerm(0.0)], [1.0], with_gradient=True)


def test_rows_do_not_depend_on_each_other_or_on_threads():
    """Bit for bit: the gradient of a row is that of the same row in a batch."""
    rows, terms = random_rows(1000, num_rows=8), TERMS["logsumexp"]
    whole = fused_on_cpu(rows, terms, WEIGHTS, with_gradient=True).gradient
    order = torch.tensor([5, 2, 7, 0, 1, 3, 6, 4])
    permuted = Rows(*(one[order] for one in rows))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = fused_on_cpu(permuted, terms, WEIGHTS, with_gradient=True).gradient
    torch.set_num_threads(threads)
    assert torch.equal(found, whole[order])
