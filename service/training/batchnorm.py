"""BatchNorm over micro-batches: several in one forward pass, and one update of a step.

Each micro-batch is normalized by its own statistics, whatever pass it is computed in. One step of
the global batch makes one update: running = (1 - m) running + m mean(batch statistics of its
micro-batches, each weighted by its images). A layer that a forward pass calls several times makes
as many updates; one with momentum None, a cumulative average, has m = 1 / (updates so far). Within
a worker the micro-batches are averaged here at every step. Between workers the recursion is linear
and training never reads it, so averaging the workers' values when they are needed gives what
averaging at every step would.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from service.models.folding import has_activation
from service.models.mixins import mix_in
from service.training.batchnorm_gains import BatchNorm, UpdateGains, momentum_of_call


class RunningStatistics:
    """Running means and variances of all BatchNorm layers of a model, on one of the workers.

    They become parts of one tensor, so that a copy of all is one operation. ``num_views``: views of
    each micro-batch, which go through the model in one pass; each of them is an update.
    """

    def __init__(self, model: nn.Module, world_size: int, num_views: int = 1):
        self._world_size, self.num_views = world_size, num_views
        self._layers = [module for module in model.modules() if isinstance(module, BatchNorm)]
        tracked = [layer for layer in self._layers if layer.running_mean is not None]
        device = next(model.parameters()).device
        self._running = _joined(tracked, ("running_mean", "running_var"), device)
        self._counters = _joined(tracked, ("num_batches_tracked",), device)
        self._gains = UpdateGains(tracked, self._running)
        self._rows: _BatchStatistics | None = None

    def step(self, sizes: Sequence[int], weights: Sequence[float]) -> "_StepStatistics":
        """Context of one optimizer step, whose forward passes run in ``forward_pass``.

        ``sizes``: images of each micro-batch. ``weights``: their shares in the mean of the step,
        times the number of workers: in full batches each is 1 / (micro-batches of a worker).
        """
        is_plain = len(weights) == 1 and weights[0] == 1.0 and self.num_views == 1
        # By itself, a layer with a cumulative average reads its counter on the host.
        if is_plain and not self._gains.has_cumulative:
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
    def update(self, rows: Tensor, weights: Sequence[float], num_calls: Sequence[int]) -> None:
        """Update from the statistics of a step's micro-batches, [views x micro-batches, C].

        ``num_calls``: of each tracked layer in a forward pass.
        """
        for of_view in rows.chunk(self.num_views):
            step = self._running.neg()
            for of_micro_batch, weight in zip(of_view, weights, strict=True):
                step.add_(of_micro_batch, alpha=weight)
            gains, counted = self._gains.of(num_calls, self._counters)
            self._running.addcmul_(gains, step)
            self._counters.add_(counted)

    @torch.no_grad()
    def synchronize(self) -> None:
        """Average over the workers; every rank must call it."""
        if not self._running.numel() or self._world_size == 1:
            return
        dist.all_reduce(self._running)
        self._running.div_(self._world_size)


class _BatchStatistics:
    """Mean and variance of each micro-batch of a step, as the layers write them.

    ``values`` [views x micro-batches, C]; of several calls of a layer, what they come to together.
    ``sizes`` and ``rows``: of the micro-batches that the forward pass which runs now is made of; no
    sizes: layers work as they do by themselves. ``num_calls``: of each tracked layer in this pass.
    ``is_kept``: false where activations are computed again, whose statistics are there already.
    """

    def __init__(self, layers: Sequence[BatchNorm], running: Tensor):
        self.values = running.new_empty((0, len(running)))
        self.sizes: list[int] = []
        self.rows: list[int] = []
        self.num_calls: list[int] = []
        self.is_kept = True
        start = 0
        for layer in layers:
            mix_in(layer, _GroupedLayer)
            layer.batch_statistics = self  # type: ignore[assignment]
            if layer.running_mean is not None:
                place = _Place(len(self.num_calls), slice(start, start + 2 * layer.num_features))
                layer.place = place  # type: ignore[assignment]
                start = place.columns.stop
                self.num_calls.append(0)

    def clear(self, num_rows: int, running: Tensor) -> None:
        """Make room for this many micro-batches; layers that are not called keep ``running``."""
        # Finite values: with momentum 1, layers multiply what is there by 0.
        self.values = running.repeat(num_rows, 1)

    def begin(self, sizes: list[int], rows: list[int]) -> None:
        """The next forward pass has these micro-batches."""
        self.sizes, self.rows, self.is_kept = sizes, rows, True
        self.num_calls = [0] * len(self.num_calls)


class _Place(NamedTuple):
    """Which of the tracked layers it is, and where its mean and variance are in a row."""

    layer: int
    columns: slice


class _GroupedLayer:
    """Mixed into a BatchNorm layer's class in front of it."""

    def forward(self: Any, inputs: Tensor) -> Tensor:
        step: _BatchStatistics = self.batch_statistics
        if not self.training or not step.sizes:
            return super().forward(inputs)  # type: ignore[misc]
        parts = torch.split(inputs, step.sizes)
        momentum = self._momentum_of_call(step)
        outputs = []
        for part, row in zip(parts, step.rows, strict=True):
            mean, variance = self._written(step, row)
            outputs.append(
                F.batch_norm(part, mean, variance, self.weight, self.bias, True, momentum, self.eps)
            )
        normalized = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return self.act(self.drop(normalized)) if has_activation(self) else normalized

    def _momentum_of_call(self: Any, step: _BatchStatistics) -> float:
        if self.running_mean is None or not step.is_kept:
            return 1.0
        step.num_calls[self.place.layer] += 1
        return momentum_of_call(self.momentum, step.num_calls[self.place.layer])

    def _written(self: Any, step: _BatchStatistics, row: int) -> tuple[Tensor | None, ...]:
        """Where mean and variance of a micro-batch go; None where the layer tracks none."""
        if self.running_mean is None:
            return None, None
        values = step.values[row, self.place.columns]
        return tuple((values if step.is_kept else values.clone()).chunk(2))

    def __reduce_ex__(self: Any, protocol: Any) -> Any:  # noqa: ANN401 - as object's
        """A copy is the layer as it was before, with no part in these statistics."""
        own = {"batch_statistics", "place"}
        state = {name: value for name, value in self.__dict__.items() if name not in own}
        return object.__new__, (type(self).__bases__[1],), state


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

    @contextmanager
    def forward_pass(self, micro_batches: range) -> Iterator[None]:
        """Within it, a forward pass has these micro-batches, and of each all views, view by view.

        Until the next one, what is computed again for its backward pass leaves no statistics.
        """
        if self._rows is None:
            yield
            return
        num_views, count = self._running.num_views, len(self._sizes)
        rows = [view * count + index for view in range(num_views) for index in micro_batches]
        self._rows.begin([self._sizes[index] for index in micro_batches] * num_views, rows)
        yield
        self._rows.is_kept = False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._rows is None:
            return
        num_calls = self._rows.num_calls
        self._rows.begin([], [])
        if kind is None:
            self._running.update(self._rows.values, self._weights, num_calls)


def _joined(layers: Sequence[BatchNorm], names: Sequence[str], device: torch.device) -> Tensor:
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
