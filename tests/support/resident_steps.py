"""Steps of a run's trainer on one batch, which is on the device already."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from service.spec.job import JobSpec
from service.training.distributed import World
from service.training.trainer import Trainer


class ResidentSteps:
    """A trainer and the first batch of its epoch."""

    def __init__(self, trainer: Trainer):
        self._trainer, self._place = trainer, trainer.progress
        self.batch = next(trainer.remaining_batches())

    def step(self) -> None:
        """The run's first step once more, from the weights that there are by now."""
        self._trainer.progress = replace(self._place)
        self._trainer.step(self.batch)


@contextmanager
def resident_steps(spec: JobSpec, world: World) -> Iterator[ResidentSteps]:
    """The steps of a spec with one worker, whose trainer ends with the context."""
    spec.run_path.mkdir(parents=True, exist_ok=True)
    with Trainer(spec, world, lambda: None) as trainer:
        yield ResidentSteps(trainer)
