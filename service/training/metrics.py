"""What happened since the last progress line: tensors until it is time to look."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.loader import Batch
from service.distillation.task import TELEMETRY_COLUMNS, TaskOutput, sample_telemetry
from service.training.world import World

QUANTILES = {"mean": None, "p5": 0.05, "p50": 0.5, "p95": 0.95}


class IntervalMetrics:
    """Sums of the loss parts and of the time spent, over all workers, since the last reading."""

    def __init__(self, world: World, base_temperature: float):
        # Told, not asked for: the group that a worker is in may be taken from it at any time, and
        # what is left of the workers must then fail and not count as all of them.
        self._world_size, self._device = world.size, world.device
        self._base_temperature = base_temperature
        self.reset()

    def reset(self) -> None:
        """Forget what was counted, and start the clock."""
        self._sums: dict[str, Tensor] = {}
        self._num_steps = 0
        self._num_images = 0
        self._wait_s = 0.0
        self._start_s = time.perf_counter()

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Pass batches on and count the time spent waiting for each."""
        iterator = iter(batches)
        while True:
            start_s = time.perf_counter()
            batch = next(iterator, None)
            self._wait_s += time.perf_counter() - start_s
            if batch is None:
                return
            yield batch

    def add(self, output: TaskOutput, weight: float) -> None:
        """Count one micro-batch with its weight in the step; nothing is read from the device."""
        for name, part in output.parts.items():
            weighted = weight * part
            self._sums[name] = self._sums[name] + weighted if name in self._sums else weighted

    def step_done(self, num_images: int) -> None:
        """Count a step with the images that were this worker's share of it."""
        self._num_steps += 1
        self._num_images += num_images

    def read(self, last: TaskOutput) -> dict[str, float]:
        """Means over workers and steps since the last reading; every rank must call it.

        ``last`` is the newest micro-batch: temperatures, gaps and agreement describe it, gathered
        from all workers.
        """
        # Every rank has the same parts, in the same order: they run the same task.
        names = list(self._sums)
        sums = [self._sums[name].double() for name in names]
        own = torch.tensor(
            [self._wait_s, self._num_images], dtype=torch.float64, device=self._device
        )
        totals = torch.cat([torch.stack(sums), own])
        world_size = self._world_size
        if world_size > 1:
            dist.all_reduce(totals)
        # Reading the totals waits for the device, so the clock is read after it.
        *parts, wait_s, num_images = (totals / world_size).tolist()
        elapsed_s = time.perf_counter() - self._start_s
        values = {name: part / self._num_steps for name, part in zip(names, parts, strict=True)}
        values["images_per_s"] = num_images * world_size / elapsed_s
        values["data_wait_share"] = wait_s / elapsed_s
        telemetry = sample_telemetry(last, self._base_temperature)
        if telemetry is not None:
            values |= _summarize(_gather(telemetry, world_size))
        self.reset()
        return values

    @property
    def is_empty(self) -> bool:
        """Whether no step has counted since the last reading; alike on all workers."""
        return self._num_steps == 0

    def state(self) -> dict[str, Any]:
        """What has been counted since the last reading, for a checkpoint."""
        return {
            "sums": dict(self._sums),
            "num_steps": self._num_steps,
            "num_images": self._num_images,
            "wait_s": self._wait_s,
            "elapsed_s": time.perf_counter() - self._start_s,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on counting from a state."""
        self._sums = {name: part.to(self._device) for name, part in state["sums"].items()}
        self._num_steps, self._num_images = state["num_steps"], state["num_images"]
        self._wait_s = state["wait_s"]
        self._start_s = time.perf_counter() - state["elapsed_s"]

    def pause(self) -> "Pause":
        """Context whose time does not count as training, such as an evaluation."""
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


def _summarize(telemetry: Tensor) -> dict[str, float]:
    columns = dict(zip(TELEMETRY_COLUMNS, telemetry.double().cpu().unbind(dim=1), strict=True))
    values = {
        name: float(columns[name].mean()) for name in ("gap_before", "gap_after", "agreement")
    }
    for side in ("teacher", "student"):
        for suffix, quantile in QUANTILES.items():
            column = columns[side]
            value = column.mean() if quantile is None else column.quantile(quantile)
            values[f"temperature_{side}_{suffix}"] = float(value)
    return values
