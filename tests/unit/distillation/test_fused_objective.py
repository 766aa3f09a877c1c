"""The objective with its losses fused, against the same one with each computed by itself."""

import logging
from pathlib import Path

import pytest
import torch

from service.distillation import fused
from service.distillation.fused import native
from service.distillation.losses.base import Context, LossInputs
from service.distillation.objective import Objective
from service.spec.losses import Losses

NUM_CLASSES = 11
RULES = ("max", "norm", "logsumexp")
DYNAMIC = {"kind": "dynamic", "sharpness": "norm", "detach": True}
LOSSES = [
    *({"ce": {}, "dtkd": {"sharpness": rule}, "kd": {}} for rule in RULES),
    {"ce": {"weight": 0.1}, "kd": {"temperature": DYNAMIC}},
    {"ce": {}, "kd": {"temperature": {"kind": "linear", "start": 2, "end": 8}}},
    {"dtkd": {"detach": True, "floor": 0.3}},
    {"ce": {}, "dtkd": {}, "kd": {}, "entropy_weights": {}},
    # Some are not fused: of other losses, and of standardized logits.
    {"ce": {}, "dtkd": {"standardize": True}, "kd": {}, "dkd": {}},
    {"ce": {}, "dtkd": {}, "kd": {"temperature": {"kind": "teacher_max"}}},
]


def make_inputs(*positions, targets=None, dtype=torch.float32, epoch=2, num_rows=6):
    generator = torch.Generator().manual_seed(0)
    shape = (num_rows, NUM_CLASSES, *positions)
    u, v = 3.0 * torch.randn(2, *shape, generator=generator)
    labels = torch.randint(NUM_CLASSES, (num_rows, *positions), generator=generator)
    targets = labels if targets is None else targets
    return LossInputs(v.to(dtype).requires_grad_(), targets, epoch, u.to(dtype))


def evaluate(losses, inputs, label_smoothing=0.1):
    """Total, parts and the gradient to the student's logits, which is scaled by a factor."""
    section = Losses.model_validate({**losses, "warmup_epochs": 6})
    objective = Objective(section, Context(NUM_CLASSES, 10, label_smoothing))
    value = objective(inputs)
    inputs.student.grad = None
    (0.25 * value.total).backward()
    return value.total.detach(), value.parts, inputs.student.grad


def assert_fused_is_plain(monkeypatch, losses, inputs):
    total, parts, gradient = evaluate(losses, inputs)
    with monkeypatch.context() as patched:
        patched.setattr("service.distillation.objective.can_fuse", lambda logits: False)
        expected_total, expected_parts, expected = evaluate(losses, inputs)
    torch.testing.assert_close(total, expected_total, rtol=1e-5, atol=0.0)
    assert list(parts) == list(expected_parts)
    for name, part in parts.items():
        assert part.ndim == 0
        assert not part.requires_grad
        torch.testing.assert_close(part, expected_parts[name], rtol=1e-5, atol=0.0)
    assert gradient.dtype == expected.dtype
    largest = expected.abs().max().item()
    rounding = 1e-5 if inputs.student.dtype == torch.float32 else 1e-2
    torch.testing.assert_close(gradient, expected, rtol=0.0, atol=rounding * largest)


@pytest.fixture
def fused_terms(monkeypatch):
    """What was computed in one call, by call."""
    calls, compute = [], native.fused_on_cpu

    def recorded(rows, terms, weights, *, with_gradient):
        calls.append(list(terms))
        return compute(rows, terms, weights, with_gradient=with_gradient)

    monkeypatch.setattr(native, "fused_on_cpu", recorded)
    return calls


@pytest.mark.parametrize("losses", LOSSES)
def test_equals_the_losses_by_themselves(monkeypatch, losses):
    assert_fused_is_plain(monkeypatch, losses, make_inputs())


@pytest.mark.parametrize("losses", LOSSES[:3])
def test_equals_them_for_positions_masks_and_half_precision(monkeypatch, losses):
    inputs = make_inputs(2, 3)
    mask = torch.rand(6, 2, 3, generator=torch.Generator().manual_seed(1)) < 0.6
    for one in (
        inputs,
        LossInputs(inputs.student, inputs.targets, 2, inputs.teacher, mask=mask),
        make_inputs(dtype=torch.bfloat16),
    ):
        assert_fused_is_plain(monkeypatch, losses, one)


def test_all_of_a_micro_batch_is_one_call(fused_terms):
    evaluate({"ce": {}, "dtkd": {}, "kd": {}}, make_inputs())
    assert [len(terms) for terms in fused_terms] == [3]


def test_mixed_labels_leave_the_cross_entropy_by_itself(monkeypatch, fused_terms):
    shares = torch.rand(6, 1, generator=torch.Generator().manual_seed(1))
    first, second = torch.eye(NUM_CLASSES)[:6], torch.eye(NUM_CLASSES)[5:]
    inputs = make_inputs(targets=shares * first + (1 - shares) * second)
    assert_fused_is_plain(monkeypatch, {"ce": {}, "dtkd": {}, "kd": {}}, inputs)
    assert [len(terms) for terms in fused_terms] == [2]


def test_float64_is_not_fused_and_so_has_an_exact_gradient(fused_terms):
    inputs = make_inputs(dtype=torch.float64)
    losses = Losses.model_validate({"ce": {}, "dtkd": {"sharpness": "logsumexp"}, "kd": {}})
    objective = Objective(losses, Context(NUM_CLASSES, 10))

    def total(student):
        return objective(LossInputs(student, inputs.targets, 2, inputs.teacher)).total

    assert torch.autograd.gradcheck(total, (inputs.student,), eps=1e-6, atol=1e-6)
    assert fused_terms == []


def test_an_empty_micro_batch_has_no_mean():
    total, parts, gradient = evaluate({"ce": {}, "dtkd": {}, "kd": {}}, make_inputs(num_rows=0))
    assert torch.isnan(total)
    assert all(torch.isnan(part) for part in parts.values())
    assert gradient.shape == (0, NUM_CLASSES)


def test_without_a_gradient_the_values_are_the_same():
    inputs = make_inputs()
    total, parts, _ = evaluate(LOSSES[0], inputs)
    section = Losses.model_validate({**LOSSES[0], "warmup_epochs": 6})
    with torch.no_grad():
        value = Objective(section, Context(NUM_CLASSES, 10, 0.1))(inputs)
    assert not value.total.requires_grad
    torch.testing.assert_close(value.total, total)
    torch.testing.assert_close(value.parts, parts)


def test_a_second_backward_pass_is_refused():
    """The gradient is kept once, and scaled in place."""
    losses = Losses.model_validate({"ce": {}, "dtkd": {}, "kd": {}})
    total = Objective(losses, Context(NUM_CLASSES, 10))(make_inputs()).total
    (2.0 * total).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (2.0 * total).backward()


def test_without_the_library_each_is_computed_by_itself_after_one_warning(monkeypatch, caplog):
    expected, _, _ = evaluate(LOSSES[0], make_inputs())
    native.library.cache_clear()
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter(()))
    with caplog.at_level(logging.WARNING):
        assert not fused.can_fuse(torch.zeros(2, NUM_CLASSES))
        total, _, _ = evaluate(LOSSES[0], make_inputs())
    native.library.cache_clear()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "the C library of the losses is not built, and each loss is computed by itself"
    ]
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=0.0)
