"""Parts of a training step by name, as a profiler records them."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.profiler import record_function

DATA = "step/data"
TEACHER = "step/teacher"
STUDENT = "step/student forward"
LOSS = "step/loss"
BACKWARD = "step/backward"
OPTIMIZER = "step/optimizer"

_NOTHING = nullcontext()


def region(name: str) -> AbstractContextManager[object]:
    """A context that an active profiler records as ``name``; without one it costs nothing."""
    return record_function(name) if torch._C._autograd._profiler_enabled() else _NOTHING
