"""The Triton kernel of the fused losses against the plain functions in float64.

It runs where a GPU is, or with TRITON_INTERPRET=1 in Triton's interpreter on a CPU, where a row of
1,000 classes takes seconds:

    TRITON_INTERPRET=1 pytest tests/gpu/test_fused_losses.py
"""

import os

import pytest
import torch
from support.fused_cases import RULES, TERMS, WEIGHTS, assert_equals_plain, random_rows

from service.distillation.fused.terms import CrossEntropyTerm, Rows, SoftenedTerm

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if IS_INTERPRETED else "cuda"
pytestmark = pytest.mark.skipif(
    not IS_INTERPRETED and not torch.cuda.is_available(), reason="there is no GPU"
)
NUM_CLASSES = [2, 37] if IS_INTERPRETED else [2, 37, 1000, 21_000]
SCALES = [(4.0, 1.5), (0.3, 1.0), (300.0, 1e-3)]


@pytest.fixture
def kernel():
    from service.distillation.fused.triton_rows import fused_on_gpu

    return fused_on_gpu


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("num_classes", NUM_CLASSES)
def test_all_terms_together(kernel, num_classes, scales, rule):
    rows = random_rows(num_classes, scales=scales, device=DEVICE)
    assert_equals_plain(kernel, rows, TERMS[rule], WEIGHTS)


@pytest.mark.parametrize(
    "term",
    [
        CrossEntropyTerm(0.0),
        SoftenedTerm(20.0),
        *(SoftenedTerm(4.0, rule, floor, True) for rule in RULES for floor in (0.05, 0.45)),
    ],
)
def test_each_term_alone(kernel, term):
    rows = random_rows(10, num_rows=12, device=DEVICE)
    assert_equals_plain(kernel, rows, [term])
    assert_equals_plain(kernel, rows._replace(weights=None), [term])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_cross_entropy_with_a_fixed_temperature(kernel, temperature):
    """At 1, exponentials are those of the cross-entropy."""
    rows = random_rows(10, device=DEVICE)
    terms = [CrossEntropyTerm(0.1), SoftenedTerm(temperature)]
    assert_equals_plain(kernel, rows, terms, [1.0, 0.5])


@pytest.mark.parametrize("rule", ["max", "norm"])
def test_of_equal_largest_logits_one_has_the_gradient(kernel, rule):
    """The one that torch takes."""
    v = torch.tensor([[0.5, 3.0, -1.0, 3.0, 0.0], [1.0, -5.0, 0.0, -5.0, 1.0]], device=DEVICE)
    rows = Rows(v, v.flip(0, 1) * 0.5, None, None)
    assert_equals_plain(kernel, rows, [SoftenedTerm(4.0, rule, 0.05)])


@pytest.mark.parametrize("rule", RULES)
def test_broken_rows_are_broken_alone(kernel, rule):
    term, rows = SoftenedTerm(4.0, rule, 0.05), random_rows(5, device=DEVICE)._replace(weights=None)
    alone = kernel(rows, [term], [1.0], with_gradient=True).gradient
    for value in (float("nan"), float("inf")):
        rows.student[4, 1] = value
        found = kernel(rows, [term], [1.0], with_gradient=True)
        assert not torch.isfinite(found.values).any()
        healthy = [row for row in range(len(alone)) if row != 4]
        torch.testing.assert_close(found.gradient[healthy], alone[healthy])


def test_a_label_that_is_no_class_is_a_loss_of_nan(kernel):
    rows = random_rows(5, device=DEVICE)
    rows.labels[2] = 5
    found = kernel(rows, [CrossEntropyTerm(0.1)], [1.0], with_gradient=False)
    assert torch.isnan(found.values).all()
