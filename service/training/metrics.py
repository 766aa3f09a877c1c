"""Metrics of a logging interval: kept as tensors on the device until the interval ends."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.batches import Batch
from service.distillation.losses.base import LossInputs
from service.distillation.regions import DATA, region
from service.distillation.task import TaskOutput
from service.training.distributed import World

Telemetry = Callable[[LossInputs], dict[str, Tensor]]
# Temperatures of samples are summarized by these, other columns by their mean.
QUANTILES = {"mean": None, "p5": 0.05, "p50": 0.5, "p95": 0.95}


class IntervalMetrics:
    """Sums of the loss parts and of the time spent, over all workers, since the last read.

    ``telemetry``: of a micro-batch, columns [P] by name; the same names on all workers.
    """

    def __init__(self, world: World, telemetry: Telemetry):
        # See World: never taken from the process group.
        self._world_size, self._device = world.size, world.device
        self._telemetry = telemetry
        self.reset()

    def reset(self) -> None:
        """Clear the counts and restart the clock."""
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._step_sums: Tensor | None = None
        self._num_steps = 0
        self._num_images = 0
        self._wait_s = 0.0
        self._start_s = time.perf_counter()

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches, counting the time spent waiting for each."""
        iterator = iter(batches)
        while True:
            start_s = time.perf_counter()
            with region(DATA):
                batch = next(iterator, None)
            self._wait_s += time.perf_counter() - start_s
            if batch is None:
                return
            yield batch

    def add(self, output: TaskOutput, weight: float) -> None:
        """Count one micro-batch with its weight in the step; nothing is read from the device."""
        # Every rank has the same parts, in the same order: they run the same task.
        self._names = list(output.parts)
        parts = torch.stack(list(output.parts.values()))
        weighted = parts if weight == 1.0 else weight * parts
        self._step_sums = weighted if self._step_sums is None else self._step_sums + weighted

    def step_done(self, num_images: int, is_skipped: Tensor) -> None:
        """Count a step with the images that were this worker's share of it.

        If the scalar ``is_skipped`` is true, its losses do not count: then call ``uncount_step``.
        """
        assert self._step_sums is not None
        before = torch.zeros_like(self._step_sums) if self._sums is None else self._sums
        self._sums = torch.where(is_skipped, before, before + self._step_sums)
        self._step_sums = None
        self._num_steps += 1
        self._num_images += num_images

    def uncount_step(self, num_images: int) -> None:
        """Take a step back whose losses did not count."""
        self._num_steps -= 1
        self._num_images -= num_images

    def forget_step(self) -> None:
        """Drop the losses of a step that is computed again."""
        self._step_sums = None

    def read(self, last: TaskOutput) -> dict[str, float]:
        """Means over workers and steps since the last read, by name; every rank must call it.

        ``last`` is the output of the newest micro-batch, which the telemetry describes, gathered
        from all workers. Times are in seconds, shares are 0 to 1.
        """
        assert self._sums is not None
        own = torch.tensor(
            [self._wait_s, self._num_images], dtype=torch.float64, device=self._device
        )
        totals = torch.cat([self._sums.double(), own])
        world_size = self._world_size
        if world_size > 1:
            dist.all_reduce(totals)
        # Reading the totals waits for the device, so the clock is read after it.
        *parts, wait_s, num_images = (totals / world_size).tolist()
        elapsed_s = time.perf_counter() - self._start_s
        values = {
            f"train/{name}": part / self._num_steps
            for name, part in zip(self._names, parts, strict=True)
        }
        values["speed/images_per_s"] = num_images * world_size / elapsed_s
        values["speed/data_wait_share"] = wait_s / elapsed_s
        columns = self._telemetry(last.inputs)
        if columns:
            rows = torch.stack([column.float() for column in columns.values()], dim=1)
            values |= _summarized(list(columns), _gather(rows, world_size))
        self.reset()
        return values

    @property
    def is_empty(self) -> bool:
        """Whether no step was counted since the last read; the same on all workers."""
        return self._num_steps == 0

    def state(self) -> dict[str, Any]:
        """The counts since the last read, for a checkpoint."""
        return {
            "sums": {} if self._sums is None else dict(zip(self._names, self._sums, strict=True)),
            "num_steps": self._num_steps,
            "num_images": self._num_images,
            "wait_s": self._wait_s,
            "elapsed_s": time.perf_counter() - self._start_s,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's counts."""
        self._names, sums = list(state["sums"]), list(state["sums"].values())
        self._sums = torch.stack(sums).to(self._device) if sums else None
        self._num_steps, self._num_images = state["num_steps"], state["num_images"]
        self._wait_s = state["wait_s"]
        self._start_s = time.perf_counter() - state["elapsed_s"]

    def pause(self) -> "Pause":
        """Context whose time is not counted, such as an evaluation."""
        return Pause(self)

    def skip_time(self, duration_s: float) -> None:
        """Leave ``duration_s`` out of the rates."""
        self._start_s += duration_s


class Pause:
    """Stops an interval's clock."""

    def __init__(self, metrics: IntervalMetrics):
        self._metrics = metrics

    def __enter__(self) -> None:
        self._start_s = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._metrics.skip_time(time.perf_counter() - self._start_s)


def _gather(rows: Tensor, world_size: int) -> Tensor:
    """Rows of all workers; in a smaller last step they have unequal numbers."""
    if world_size == 1:
        return rows
    counts = torch.zeros(world_size, dtype=torch.int64, device=rows.device)
    counts[dist.get_rank()] = len(rows)
    dist.all_reduce(counts)
    padded = rows.new_zeros((int(counts.max()), rows.shape[1]))
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in range(world_size)]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:count] for part, count in zip(gathered, counts.tolist(), strict=True)])


def _summarized(names: list[str], rows: Tensor) -> dict[str, float]:
    """Means, and quantiles of the temperatures of samples, of the columns of rows [P, C]."""
    values = {}
    for name, column in zip(names, rows.double().cpu().unbind(dim=1), strict=True):
        if not name.endswith("_temperature"):
            values[name] = float(column.mean())
            continue
        for suffix, quantile in QUANTILES.items():
            value = column.mean() if quantile is None else column.quantile(quantile)
            values[f"{name}_{suffix}"] = float(value)
    return values
