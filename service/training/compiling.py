"""A network's forward pass by torch.compile, for batches of one size.

There is code for each image size, and none for batches of other sizes, such as those of an
evaluation: what computes a batch must not depend on what was computed before it, or else a resumed
run would not equal an uninterrupted one.
"""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from data_pipeline.cache_folders import first_writable
from service.distillation.task import Trainee
from service.spec.job import JobSpec
from service.training.memory import is_out_of_memory

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
MAX_VERSIONS = 64
"""Of the code of a network, one for each image size; torch would stop at 8."""


_warned: set[str] = set()
"""Why compiling has failed, as this process has said in this run."""


class CompiledForward:
    """Calls a network on images [B, 3, S, S]: compiled where B is ``batch_size``, else eagerly.

    Parameters and the names of the state dict stay the network's. Where it cannot be compiled, as
    without a C++ compiler, ``warn`` gets one line and all is eager.

    Args:
        freezing: whether the weights are constants of the code, as those of a frozen teacher.
    """

    def __init__(
        self,
        network: nn.Module,
        batch_size: int,
        warn: Callable[[str], None],
        *,
        freezing: bool = False,
    ):
        self._network, self._batch_size, self._warn = network, batch_size, warn
        self.is_usable = True
        """False once compiling has failed."""
        _prepare_compiler()
        options: dict[str, str | int | bool | Callable[..., object]] = {"freezing": freezing}
        self._compiled = torch.compile(network.forward, dynamic=False, options=options)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, K]."""
        if self.is_usable and len(images) == self._batch_size:
            try:
                return self._compiled(images)
            except TorchDynamoException as error:
                if is_out_of_memory(error):
                    raise
                self.is_usable = False
                self._warn_once(_reason(error))
        logits = self._network(images)
        assert isinstance(logits, Tensor)
        return logits

    def _warn_once(self, reason: str) -> None:
        """A compiler that is missing is so for each network of a run."""
        if reason not in _warned:
            _warned.add(reason)
            self._warn(f"warning: torch.compile fails here, training is eager ({reason})")


class CompiledNetwork(nn.Module):
    """A network for inference by ``CompiledForward``."""

    def __init__(self, network: nn.Module, batch_size: int, warn: Callable[[str], None]):
        super().__init__()
        self.network = network
        self._forward = CompiledForward(network, batch_size, warn, freezing=True)

    @property
    def is_usable(self) -> bool:
        """False once compiling has failed."""
        return self._forward.is_usable

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, S, S] to logits [B, K]."""
        return self._forward(images)


def compile_student(
    spec: JobSpec, trainee: Trainee, num_images: int, warn: Callable[[str], None]
) -> None:
    """Compute the student's steps of ``num_images`` on this worker by compiled code from now on."""
    num_views = 1 if spec.augmentation.strong is None else 2
    trainee.student_forward = CompiledForward(trainee.student, num_views * num_images, warn)


def forget_compiled() -> None:
    """Drop the code of networks that this process has compiled, for an earlier run."""
    torch._dynamo.reset()
    _warned.clear()


def _prepare_compiler() -> None:
    """Its settings; the caches' folders are those of the environment, if it names any.

    By default inductor's is in the temporary folder under a name that anybody can guess. Triton's
    is in it.
    """
    # Imported here: it takes a while, and most runs compile nothing.
    from torch._inductor import codecache

    if CACHE_VARIABLE not in os.environ:
        os.environ[CACHE_VARIABLE] = str(first_writable("inductor", CACHE_VARIABLE))
    # Inductor keeps the C++ headers that it has compiled in its default folder, whatever the
    # variable says; there is no setting for it.
    headers = Path(os.environ[CACHE_VARIABLE], "precompiled_headers")
    codecache._HEADER_DIR, codecache._HEADER_LOCK_DIR = str(headers), str(headers / "locks")
    torch._dynamo.config.recompile_limit = MAX_VERSIONS
    # Processes that compile beside this one; one by one within it if it has a single CPU.
    torch._inductor.config.compile_threads = torch.get_num_threads()


def _reason(error: Exception) -> str:
    """The first line that says something."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__)
