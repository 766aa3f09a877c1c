"""BatchNorm's running statistics, defined over all micro-batches of a step.

One step of the global batch makes one update: running = (1 - m) running + m mean(batch statistics
of its micro-batches, each weighted by its images). Within a worker the micro-batches are averaged
here at every step. Between workers the recursion is linear and training never reads it, so
averaging the workers' values when they are needed gives what averaging at every step would.
"""

from collections.abc import Sequence
from types import TracebackType

import torch
import torch.distributed as dist
from torch import Tensor, nn


class RunningStatistics:
    """Running means and variances of all BatchNorm layers of a model, on one of the workers.

    ``num_views``: forward passes that each micro-batch takes; each of them is an update.
    """

    def __init__(self, model: nn.Module, world_size: int, num_views: int = 1):
        self._world_size, self._num_views = world_size, num_views
        self._buffers: list[Tensor] = []
        self._counters: list[Tensor] = []
        self._keeps: list[float] = []
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                assert module.running_mean is not None
                assert module.running_var is not None
                assert module.num_batches_tracked is not None
                self._buffers += [module.running_mean, module.running_var]
                self._counters.append(module.num_batches_tracked)
                momentum = 0.1 if module.momentum is None else module.momentum
                self._keeps += [(1.0 - momentum) ** num_views] * 2

    def step(self, weights: Sequence[float]) -> "_StepAverage":
        """Context of one optimizer step; call ``micro_batch_done`` after each micro-batch.

        ``weights`` are the shares of the micro-batches in the mean of the step, times the number of
        workers: in full batches each is 1 / (micro-batches of a worker).
        """
        if len(weights) == 1 and weights[0] == 1.0:
            return _StepAverage([], [], [], weights, self._num_views)
        return _StepAverage(self._buffers, self._counters, self._keeps, weights, self._num_views)

    def state(self) -> list[Tensor]:
        """This worker's statistics since the last averaging over workers, and their counters."""
        return [*self._buffers, *self._counters]

    @torch.no_grad()
    def restore(self, state: list[Tensor]) -> None:
        """Load a state."""
        for buffer, value in zip([*self._buffers, *self._counters], state, strict=True):
            buffer.copy_(value)

    @torch.no_grad()
    def synchronize(self) -> None:
        """Average over the workers; every rank must call it."""
        if not self._buffers or self._world_size == 1:
            return
        flat = torch.cat(self._buffers)
        dist.all_reduce(flat)
        flat /= self._world_size
        parts = torch.split(flat, [buffer.numel() for buffer in self._buffers])
        torch._foreach_copy_(self._buffers, list(parts))


class _StepAverage:
    """Averages the statistics that the forward passes of one step write."""

    def __init__(
        self,
        buffers: list[Tensor],
        counters: list[Tensor],
        keeps: list[float],
        weights: Sequence[float],
        num_views: int,
    ):
        self._buffers, self._counters, self._num_views = buffers, counters, num_views
        self._keeps, self._weights = keeps, weights
        self._num_done = 0

    @torch.no_grad()
    def __enter__(self) -> "_StepAverage":
        self._before = [buffer.clone() for buffer in self._buffers]
        # Where the weights of a worker do not add up to one, the rest keeps what was there: the
        # workers' mean is then the weighted mean of all micro-batches.
        rest = 1.0 - sum(self._weights)
        self._sums = [
            buffer * (rest * keep) for buffer, keep in zip(self._buffers, self._keeps, strict=True)
        ]
        return self

    @torch.no_grad()
    def micro_batch_done(self) -> None:
        """Accumulate what this micro-batch wrote, and restore the values for the next."""
        if self._buffers:
            torch._foreach_add_(self._sums, self._buffers, alpha=self._weights[self._num_done])
            torch._foreach_copy_(self._buffers, self._before)
        self._num_done += 1

    @torch.no_grad()
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._buffers and kind is None:
            torch._foreach_copy_(self._buffers, self._sums)
            # The layers counted each micro-batch, but a step is one update for each view.
            torch._foreach_sub_(self._counters, (len(self._weights) - 1) * self._num_views)
