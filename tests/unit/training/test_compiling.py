"""Compiled code is used for whole batches, and is the same function; without a compiler, none."""

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import codecache

from data_pipeline.cache_folders import first_writable
from service.training import compiling
from service.training.compiling import (
    CACHE_VARIABLE,
    CompiledForward,
    CompiledNetwork,
    forget_compiled,
)

BATCH_SIZE = 4


@pytest.fixture(autouse=True)
def _no_code(monkeypatch, tmp_path):
    # The user's own: the compiler's headers are compiled once.
    monkeypatch.setenv(CACHE_VARIABLE, str(first_writable("inductor", CACHE_VARIABLE)))
    for name in ("_HEADER_DIR", "_HEADER_LOCK_DIR"):
        monkeypatch.setattr(codecache, name, str(tmp_path / "default"))
    codecache._precompile_header.cache_clear()
    forget_compiled()
    counters.clear()
    yield
    forget_compiled()


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def images(count=BATCH_SIZE):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def num_compiled():
    return counters["stats"]["unique_graphs"]


def test_without_a_compiler_one_warning_and_the_job_goes_on(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("c++")

    monkeypatch.setattr(torch._inductor.cpp_builder, "get_cpp_compiler", missing)
    network, warnings = make_network(), []
    forward = CompiledForward(network, BATCH_SIZE, warnings.append)
    for _ in range(2):
        torch.testing.assert_close(forward(images()), network(images()), rtol=0, atol=0)
    assert not forward.is_usable
    CompiledNetwork(network, BATCH_SIZE, warnings.append)(images())
    (warning,) = warnings
    assert warning.startswith("warning: torch.compile fails here, training is eager (")


@pytest.mark.slow
def test_compiled_network_is_the_same_function_for_whole_batches(tmp_path):
    """All that the compiler writes, its headers too, is where the environment says."""
    network, warnings = make_network(), []
    names = list(network.state_dict())
    forward = CompiledForward(network, BATCH_SIZE, warnings.append)
    expected = copy.deepcopy(network)
    for count, num in ((BATCH_SIZE - 1, 0), (BATCH_SIZE, 1), (BATCH_SIZE, 1), (2, 1)):
        network.zero_grad(), expected.zero_grad()
        found, wanted = forward(images(count)), expected(images(count))
        torch.autograd.backward([found.square().sum(), wanted.square().sum()])
        torch.testing.assert_close(found, wanted)
        for one, other in zip(network.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)
        assert num_compiled() == num
    assert list(network.state_dict()) == names
    frozen = CompiledNetwork(network.eval().requires_grad_(False), BATCH_SIZE, warnings.append)
    with torch.inference_mode():
        torch.testing.assert_close(frozen(images()), expected(images()))
    assert num_compiled() == 2
    assert (frozen.is_usable, warnings) == (True, [])
    written = {path.suffix for path in Path(os.environ[CACHE_VARIABLE]).rglob("*")}
    assert {".so", ".gch"} <= written
    assert not (tmp_path / "default").exists()


@pytest.mark.parametrize("is_given", [True, False])
def test_cache_is_where_the_environment_says_or_the_users_own(monkeypatch, tmp_path, is_given):
    given = tmp_path / "given"
    monkeypatch.setenv("HOME", str(tmp_path))
    # Restored after the test, which sets it.
    monkeypatch.setenv(CACHE_VARIABLE, str(given))
    if not is_given:
        monkeypatch.delenv(CACHE_VARIABLE)
    compiling._prepare_compiler()
    own = tmp_path / ".cache" / "dtkd-service" / "inductor"
    assert os.environ[CACHE_VARIABLE] == str(given if is_given else own)
    assert own.is_dir() != is_given
