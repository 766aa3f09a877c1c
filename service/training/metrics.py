"""What happened since the last progress line: tensors until it is time to look."""

import time
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.loader import Batch
from service.distillation.task import TELEMETRY_COLUMNS, TaskOutput, sample_telemetry

QUANTILES = {"mean": None, "p5": 0.05, "p50": 0.5, "p95": 0.95}


class IntervalMetrics:
    """Sums of the loss parts and of the time spent, over all workers, since the last reading."""

    def __init__(self, device: torch.device, base_temperature: float):
        self._device = device
        self._base_temperature = base_temperature
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._num_micro_batches = 0
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

    def add(self, output: TaskOutput) -> None:
        """Count one micro-batch; nothing is read from the device."""
        for name, part in output.parts.items():
            self._sums[name] = self._sums[name] + part if name in self._sums else part
        self._num_micro_batches += 1
        self._num_images += len(output.student_logits)

    def read(self, last: TaskOutput) -> dict[str, float]:
        """Means over workers and steps since the last reading; every rank must call it.

        ``last`` is the newest micro-batch: temperatures, gaps and agreement describe it, gathered
        from all workers.
        """
        # Every rank has the same parts, in the same order: they run the same task.
        names = list(self._sums)
        sums = [self._sums[name].double() for name in names]
        wait = torch.tensor(self._wait_s, dtype=torch.float64, device=self._device)
        totals = torch.stack([*sums, wait])
        world_size = dist.get_world_size() if dist.is_initialized() else 1
        if world_size > 1:
            dist.all_reduce(totals)
        # Reading the totals waits for the device, so the clock is read after it.
        *parts, wait_s = (totals / world_size).tolist()
        elapsed_s = time.perf_counter() - self._start_s
        values = {
            name: part / self._num_micro_batches for name, part in zip(names, parts, strict=True)
        }
        values["images_per_s"] = self._num_images * world_size / elapsed_s
        values["data_wait_share"] = wait_s / elapsed_s
        telemetry = sample_telemetry(last, self._base_temperature)
        if telemetry is not None:
            values |= _summarize(_gather(telemetry, world_size))
        self._reset()
        return values

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
    """Rows of all workers; each has as many."""
    if world_size == 1:
        return rows
    gathered = [torch.empty_like(rows) for _ in range(world_size)]
    dist.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)


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
