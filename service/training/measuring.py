"""Evaluations of a worker's networks on val, which the workers leave together if they must."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from data_pipeline.loader import Batch
from service.distillation.task import DistillationTask
from service.training.data import WorkerData
from service.training.evaluation import Accuracy, Classifier, evaluate
from service.training.world import World


class MustLeaveError(Exception):
    """Ends an evaluation, on all ranks."""


class Evaluator:
    """Measures on val; ``must_leave`` is what the workers agree on, asked before every batch."""

    def __init__(
        self,
        task: DistillationTask,
        data: WorkerData,
        world: World,
        must_leave: Callable[[], bool],
    ):
        self._task, self._data, self._world = task, data, world
        self._must_leave = must_leave

    def measure(self, classify: Classifier, num_images: int | None = None) -> Accuracy:
        """Accuracy on val, or on so many of its images, spread evenly over the file.

        Raises:
            MustLeaveError: on all ranks.
        """
        num_images = min(num_images or self._data.num_val_images, self._data.num_val_images)
        chosen = np.linspace(0, self._data.num_val_images - 1, num_images).astype(np.int64)
        with self._task.autocast(self._world.device):
            return evaluate(classify, self._unless_leaving(chosen), self._world)

    def _unless_leaving(self, chosen: NDArray[np.int64]) -> Iterator[Batch]:
        """This worker's batches; every rank asks equally often, whether it has one more or not."""
        batches = self._data.val_batches(chosen)
        for _ in range(self._data.num_val_batches(len(chosen))):
            if self._must_leave():
                raise MustLeaveError
            batch = next(batches, None)
            if batch is not None:
                yield batch
