"""Process-wide settings of cuDNN, cuBLAS and matrix products."""

import os

import pytest
import torch

from service.training.distributed import prepare_process

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    flags = cudnn.benchmark, cudnn.allow_tf32
    fills = torch.utils.deterministic.fill_uninitialized_memory
    yield
    cudnn.benchmark, cudnn.allow_tf32 = flags
    torch.set_float32_matmul_precision(precision)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fills


def settings():
    cudnn = torch.backends.cudnn
    return (
        cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        torch.get_float32_matmul_precision(),
        cudnn.allow_tf32,
    )


def test_tf32_and_algorithms_are_those_of_the_next_run():
    """A process of a sweep trains one run after the other."""
    prepare_process(GPU)
    assert settings() == (True, False, None, "highest", False)
    prepare_process(GPU, deterministic=True, matmul_precision="high")
    assert settings() == (False, True, ":4096:8", "high", True)
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    prepare_process(GPU)
    assert settings() == (True, False, ":4096:8", "highest", False)
