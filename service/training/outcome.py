"""Whether a step was finite, read one step later, so that the host never waits for the device."""

from typing import NamedTuple

import torch
from torch import Tensor

from data_pipeline.batches import Batch
from service.run.progress import Progress
from service.training.update import GradientCheck


class LaunchedStep(NamedTuple):
    """A step whose work was launched. ``progress``: as it was before it."""

    progress: Progress
    batch: Batch
    num_local: int


class Outcome(NamedTuple):
    """``loss``: this worker's part of the mean. ``is_skipped``, ``is_nonfinite``: see
    ``GradientCheck``.
    """

    step: LaunchedStep
    loss: float
    gradient_norm: float
    is_skipped: bool
    is_nonfinite: bool


class OutcomeReader:
    """Copies the outcome of a step to the host in the background, for the next step to read."""

    def __init__(self, device: torch.device):
        is_gpu = device.type == "cuda"
        self._values = torch.zeros(4, dtype=torch.float64, pin_memory=is_gpu)
        # Shares the memory: reading it is no operation of torch.
        self._on_host = self._values.numpy()
        self._event = torch.cuda.Event() if is_gpu else None  # type: ignore[no-untyped-call]
        self._step: LaunchedStep | None = None

    def launched(self, step: LaunchedStep, loss: Tensor, checked: GradientCheck) -> None:
        """The work of a step is launched; the outcome of the one before must have been read."""
        assert self._step is None
        self._values.copy_(torch.stack((loss, *checked)), non_blocking=True)
        if self._event is not None:
            self._event.record()
        self._step = step

    def read(self) -> Outcome | None:
        """The outcome of the step that was launched last, once; it waits for that step's end."""
        if self._step is None:
            return None
        if self._event is not None:
            self._event.synchronize()
        loss, gradient_norm, is_skipped, is_nonfinite = self._on_host.tolist()
        step, self._step = self._step, None
        return Outcome(step, loss, gradient_norm, bool(is_skipped), bool(is_nonfinite))
