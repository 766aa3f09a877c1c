"""BatchNorm over micro-batches: several in one forward pass, and one update of a step.

Each micro-batch is normalized by its own statistics, whatever pass it is computed in. One step of
the global batch makes one update: running = (1 - m) running + m mean(batch statistics of its
micro-batches, each weighted by its images). Within a worker the micro-batches are averaged here at
every step. Between workers the recursion is linear and training never reads it, so averaging the
workers' values when they are needed gives what averaging at every step would.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from service.models.folding import has_activation

_BatchNorm = nn.modules.batchnorm._BatchNorm


class RunningStatistics:
    """Running means and variances of all BatchNorm layers of a model, on one of the workers.

    They become parts of one tensor, so that a copy of all is one operation. ``num_views``: views of
    each micro-batch, which go through the model in one pass; each of them is an update.
    """

    def __init__(self, model: nn.Module, world_size: int, num_views: int = 1):
        self._world_size, self.num_views = world_size, num_views
        self._layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        tracked = [layer for layer in self._layers if layer.running_mean is not None]
        device = next(model.parameters()).device
        self._running = _joined(tracked, ("running_mean", "running_var"), device)
        self._counters = _joined(tracked, ("num_batches_tracked",), device)
        self._momenta = _momenta(tracked, self._running)
        self._rows: _BatchStatistics | None = None

    def step(self, sizes: Sequence[int], weights: Sequence[float]) -> "_StepStatistics":
        """Context of one optimizer step; call ``begin_pass`` before each forward pass.

        ``sizes``: images of each micro-batch. ``weights``: their shares in the mean of the step,
        times the number of workers: in full batches each is 1 / (micro-batches of a worker).
        """
        if len(weights) == 1 and weights[0] == 1.0 and self.num_views == 1:
            return _StepStatistics(self, None, sizes, weights)
        if self._rows is None:
            self._rows = _BatchStatistics(self._layers, self._running)
        return _StepStatistics(self, self._rows, sizes, weights)

    @property
    def values(self) -> Tensor:
        """The running means and variances of all layers."""
        return self._running

    def state(self) -> list[Tensor]:
        """This worker's statistics since the last averaging over workers, and their counters."""
        return [self._running, self._counters]

    def snapshot(self) -> list[Tensor]:
        """A copy of the state."""
        return [self._running.clone(), self._counters.clone()]

    @torch.no_grad()
    def restore(self, state: list[Tensor], where: Tensor | None = None) -> None:
        """Load a state; only if the scalar ``where`` is true, which is not read on the host."""
        for current, value in zip(self.state(), state, strict=True):
            if where is None:
                current.copy_(value)
            else:
                torch.where(where, value, current, out=current)

    @torch.no_grad()
    def update(self, rows: Tensor, weights: Sequence[float]) -> None:
        """Update from the statistics of a step's micro-batches, [views x micro-batches, C]."""
        for of_view in rows.chunk(self.num_views):
            step = self._running.neg()
            for of_micro_batch, weight in zip(of_view, weights, strict=True):
                step.add_(of_micro_batch, alpha=weight)
            self._running.addcmul_(self._momenta, step)
        self._counters.add_(self.num_views)

    @torch.no_grad()
    def synchronize(self) -> None:
        """Average over the workers; every rank must call it."""
        if not self._running.numel() or self._world_size == 1:
            return
        dist.all_reduce(self._running)
        self._running.div_(self._world_size)


class _BatchStatistics:
    """Mean and variance of each micro-batch of a step, as the layers write them.

    ``values`` [views x micro-batches, C]. ``sizes`` and ``rows``: of the micro-batches that the
    forward pass which runs now is made of; no sizes: layers work as they do by themselves.
    """

    def __init__(self, layers: Sequence[_BatchNorm], running: Tensor):
        self.values = running.new_empty((0, len(running)))
        self.sizes: list[int] = []
        self.rows: list[int] = []
        start = 0
        for layer in layers:
            kind: Any = type(layer)
            # A changed class, not a changed method, leaves names and weights as they are.
            layer.__class__ = type(f"Grouped{kind.__name__}", (_GroupedLayer, kind), {})
            layer.batch_statistics = self  # type: ignore[assignment]
            layer.first_column = start  # type: ignore[assignment]
            if layer.running_mean is not None:
                start += 2 * layer.num_features

    def clear(self, num_rows: int, running: Tensor) -> None:
        """Make room for this many micro-batches; layers that are not called keep ``running``."""
        # Finite values: with momentum 1, layers multiply what is there by 0.
        self.values = running.repeat(num_rows, 1)


class _GroupedLayer:
    """Mixed into a BatchNorm layer's class in front of it."""

    def forward(self: Any, inputs: Tensor) -> Tensor:
        step: _BatchStatistics = self.batch_statistics
        if not self.training or not step.sizes:
            return super().forward(inputs)  # type: ignore[misc]
        parts = torch.split(inputs, step.sizes)
        outputs = []
        for part, row in zip(parts, step.rows, strict=True):
            mean, variance = self._written(row)
            # With momentum 1 it writes the statistics of the micro-batch themselves.
            outputs.append(
                F.batch_norm(part, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
            )
        normalized = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return self.act(self.drop(normalized)) if has_activation(self) else normalized

    def _written(self: Any, row: int) -> tuple[Tensor | None, Tensor | None]:
        """Where mean and variance of a micro-batch go; None where the layer tracks none."""
        if self.running_mean is None:
            return None, None
        start, count = self.first_column, self.num_features
        values = self.batch_statistics.values[row]
        return values[start : start + count], values[start + count : start + 2 * count]


class _StepStatistics:
    """Collects the statistics that the forward passes of one step compute."""

    def __init__(
        self,
        running: RunningStatistics,
        rows: _BatchStatistics | None,
        sizes: Sequence[int],
        weights: Sequence[float],
    ):
        self._running, self._rows = running, rows
        self._sizes, self._weights = list(sizes), weights

    def __enter__(self) -> "_StepStatistics":
        if self._rows is not None:
            num_rows = len(self._sizes) * self._running.num_views
            self._rows.clear(num_rows, self._running.values)
        return self

    def begin_pass(self, micro_batches: range) -> None:
        """The next forward pass has these micro-batches, and of each all views, view by view."""
        if self._rows is None:
            return
        num_views, count = self._running.num_views, len(self._sizes)
        self._rows.sizes = [self._sizes[index] for index in micro_batches] * num_views
        self._rows.rows = [
            view * count + index for view in range(num_views) for index in micro_batches
        ]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._rows is None:
            return
        self._rows.sizes, self._rows.rows = [], []
        if kind is None:
            self._running.update(self._rows.values, self._weights)


def _joined(layers: Sequence[_BatchNorm], names: Sequence[str], device: torch.device) -> Tensor:
    """All these buffers one after the other in one tensor, of which they become parts."""
    places = [(layer, name) for layer in layers for name in names]
    if not places:
        return torch.empty(0, device=device)
    buffers = [getattr(layer, name) for layer, name in places]
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    parts = torch.split(flat, [buffer.numel() for buffer in buffers])
    for (layer, name), buffer, part in zip(places, buffers, parts, strict=True):
        setattr(layer, name, part.view(buffer.shape))
    return flat


def _momenta(layers: Sequence[_BatchNorm], running: Tensor) -> Tensor:
    """The momentum of each value in ``running``."""
    counts = [2 * layer.num_features for layer in layers]
    momenta = [0.1 if layer.momentum is None else layer.momentum for layer in layers]
    repeated = torch.tensor(momenta).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
    return repeated.to(running)
