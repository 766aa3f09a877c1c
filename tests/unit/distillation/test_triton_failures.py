"""The objective where Triton cannot be imported, or a kernel not be compiled."""

import logging
import sys

import pytest
import torch

from service.distillation import fused
from service.distillation.fused import native
from service.distillation.losses.base import Context, LossInputs
from service.distillation.objective import Objective
from service.spec.losses import Losses

NUM_CLASSES = 11
LOSSES = Losses.model_validate({"ce": {}, "dtkd": {}, "kd": {}})


@pytest.fixture(autouse=True)
def no_failure_yet(monkeypatch):
    """Triton has not been tried, and is what computes on the CPU too."""
    monkeypatch.setattr(fused, "_kernels", lambda logits: fused._triton_kernels(logits.shape[1]))
    yield
    fused._triton_failed.clear()
    fused._import_triton_rows.cache_clear()


@pytest.fixture
def triton_rows(monkeypatch):
    """Stands in for the module, computing by the C library until a test lets it fail."""
    module = type(sys)("triton_rows")
    module.MAX_CLASSES = 100
    module.fused_on_gpu, module.scale_on_gpu = native.fused_on_cpu, native.scale_on_cpu
    monkeypatch.setitem(sys.modules, "service.distillation.fused.triton_rows", module)
    monkeypatch.setattr(fused, "triton_rows", module, raising=False)
    fused._import_triton_rows.cache_clear()
    return module


def raising(error, calls):
    def kernel(*arguments, **settings):
        calls.append(error)
        raise error

    return kernel


def evaluate():
    """The total and the gradient of a step."""
    u, v = 3.0 * torch.randn(2, 6, NUM_CLASSES, generator=torch.Generator().manual_seed(0))
    inputs = LossInputs(v.requires_grad_(), torch.arange(6), 2, u)
    total = Objective(LOSSES, Context(NUM_CLASSES, 10))(inputs).total
    (0.25 * total).backward()
    return total.detach(), inputs.student.grad


@pytest.fixture
def expected(monkeypatch):
    """Of the plain functions."""
    with monkeypatch.context() as patched:
        patched.setattr("service.distillation.objective.can_fuse", lambda logits: False)
        return evaluate()


@pytest.mark.parametrize("failing", ["fused_on_gpu", "scale_on_gpu"])
@pytest.mark.parametrize("error", [RuntimeError("no C compiler"), AttributeError("type")])
def test_a_kernel_that_fails_is_tried_once(
    monkeypatch, caplog, expected, triton_rows, failing, error
):
    """The step in which it fails and those after it are the plain functions'."""
    calls = []
    monkeypatch.setattr(triton_rows, failing, raising(error, calls))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            torch.testing.assert_close(evaluate(), expected)
    assert calls == [error]
    [record] = caplog.records
    assert record.getMessage().startswith("each loss is computed by itself, because Triton")
    assert record.exc_info[1] is error


@pytest.mark.parametrize("failing", ["fused_on_gpu", "scale_on_gpu"])
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("of 2 GiB"), RuntimeError("Triton Error [CUDA]: out of memory")],
)
def test_missing_memory_is_an_error(monkeypatch, caplog, triton_rows, failing, error):
    monkeypatch.setattr(triton_rows, failing, raising(error, []))
    with pytest.raises(RuntimeError, match=r"of 2 GiB|out of memory"):
        evaluate()
    assert not caplog.records
    assert fused.can_fuse(torch.zeros(2, NUM_CLASSES))


def test_without_triton_each_is_computed_by_itself_after_one_warning(monkeypatch, caplog, expected):
    monkeypatch.setitem(sys.modules, "service.distillation.fused.triton_rows", None)
    monkeypatch.delattr(fused, "triton_rows", raising=False)
    fused._import_triton_rows.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            torch.testing.assert_close(evaluate(), expected)
    assert len(caplog.records) == 1
    assert "each loss is computed by itself" in caplog.text
