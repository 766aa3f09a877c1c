"""Steps of a run's trainer on one batch, which is on the device already."""

from dataclasses import replace
from types import TracebackType
from typing import Self

from service.spec.job import JobSpec
from service.training.distributed import World
from service.training.trainer import Trainer


class ResidentSteps:
    """The trainer of a spec with one worker, and its first batch; use as a context manager."""

    def __init__(self, spec: JobSpec, world: World):
        spec.run_path.mkdir(parents=True, exist_ok=True)
        self._trainer = Trainer(spec, world, lambda: None)
        self._place = self._trainer.progress
        self.batch = next(self._trainer.remaining_batches())

    def step(self) -> None:
        """The run's first step once more, from the weights that there are by now."""
        self._trainer.progress = replace(self._place)
        self._trainer.step(self.batch)

    def __enter__(self) -> Self:
        self._trainer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._trainer.__exit__(kind, error, traceback)
