"""Accuracy on val: every image exactly once, whatever the number of workers."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.batches import Batch
from service.distillation.logits import are_valid
from service.distillation.task import DistillationTask
from service.run.predictions import INVALID, Predictions
from service.run.report import NONFINITE_METRIC
from service.spec.job import JobSpec
from service.training.data import WorkerData
from service.training.distributed import World
from service.training.memory import evaluation_text, with_memory_field
from service.training.prediction_recorder import PredictionRecorder

Classifier = Callable[[Tensor], Tensor]


class Accuracy(NamedTuple):
    """Shares (0 to 1) of correct top-1 and top-5 predictions, and the mean cross-entropy.

    ``num_nonfinite``: images whose logits are not valid (see ``are_valid``); they count as wrong.
    """

    top1: float
    top5: float
    loss: float
    num_images: int
    num_nonfinite: int = 0

    def as_metrics(self, group: str) -> dict[str, float]:
        """Metric values by name, such as ``val/top1``; ``num_nonfinite`` only where there are."""
        metrics = {"top1": self.top1, "top5": self.top5, "loss": self.loss}
        if self.num_nonfinite:
            metrics[NONFINITE_METRIC] = self.num_nonfinite
        return {f"{group}/{name}": value for name, value in metrics.items()}


def recorded_accuracy(predictions: Predictions) -> Accuracy:
    """The accuracy of an evaluation that was recorded."""
    return Accuracy(
        float(predictions.are_right.mean()),
        float(predictions.in_top5.mean()),
        float(predictions.losses.astype(np.float64).mean()),
        len(predictions.labels),
        int((predictions.predicted == INVALID).sum()),
    )


class EvaluationStopped(Exception):  # noqa: N818 - control flow like StopIteration, not an error
    """Ends an evaluation on all ranks, because the workers must stop."""


class Evaluator:
    """Evaluates networks on val; all ranks make the same calls.

    ``must_stop`` is called on all ranks before every batch and returns the same on all.
    """

    def __init__(
        self,
        spec: JobSpec,
        task: DistillationTask,
        data: WorkerData,
        world: World,
        must_stop: Callable[[], bool],
    ):
        self._spec, self._task, self._data, self._world = spec, task, data, world
        self._must_stop = must_stop

    def evaluate(
        self,
        classify: Classifier,
        num_images: int | None = None,
        recorder: PredictionRecorder | None = None,
    ) -> Accuracy:
        """Accuracy on val, or on this many of its images, evenly spaced over the file.

        ``classify``: uint8 pixels [B, H, W, 3] to logits [B, K]. ``recorder``: gets what this
        worker's images are taken for.

        Raises:
            EvaluationStopped: on all ranks.
            DeviceMemoryError: a batch does not fit.
        """
        num_images = min(num_images or self._data.num_val_images, self._data.num_val_images)
        # As ``Predictions.spaced``.
        chosen = np.linspace(0, self._data.num_val_images - 1, num_images).astype(np.int64)
        world, text = self._world, evaluation_text(self._spec)
        with with_memory_field(world, text), self._task.autocast(world.device):
            return evaluate(classify, self._batches(chosen), world, recorder)

    def _batches(self, chosen: NDArray[np.int64]) -> Iterator[Batch]:
        """This worker's batches; every rank calls ``must_stop`` equally often."""
        batches = self._data.val_batches(chosen)
        for _ in range(self._data.num_val_batches(len(chosen))):
            if self._must_stop():
                raise EvaluationStopped
            batch = next(batches, None)
            if batch is not None:
                yield batch
        # Nothing is left to stop, but a worker that hangs in its last batch is noticed here, not
        # by GPUs that wait for its totals.
        self._must_stop()


@torch.inference_mode()
def evaluate(
    classify: Classifier,
    batches: Iterable[Batch],
    world: World,
    recorder: PredictionRecorder | None = None,
) -> Accuracy:
    """Accuracy of ``classify`` (uint8 pixels [B, H, W, 3] to logits [B, K]) over all workers.

    ``batches`` are this worker's share; sums and counts, not means, are reduced, so unequal shares
    and short last batches have the correct weight. Every rank must call it.
    """
    device = world.device
    totals, num_images = torch.zeros(4, dtype=torch.float64, device=device), 0
    for batch in batches:
        labels = batch.labels.to(device, non_blocking=True)
        logits = classify(batch.images.to(device, non_blocking=True)).float()
        # Summed per sample in float64: the order of summation does not change the figure.
        losses = F.cross_entropy(logits, labels, reduction="none")
        in_top5 = is_among_best(logits, labels, 5)
        if recorder is not None:
            recorder.add(batch, logits, in_top5, losses)
        totals += torch.stack(
            [
                is_among_best(logits, labels, 1).sum().double(),
                in_top5.sum().double(),
                losses.double().sum(),
                (~are_valid(logits)).sum().double(),
            ]
        )
        # Counted on the host: a number that is copied to a GPU waits for all that it has to do.
        num_images += len(labels)
    totals = torch.cat([totals, totals.new_full((1,), num_images)])
    if world.size > 1:
        dist.all_reduce(totals)
    top1, top5, loss, nonfinite, count = totals.tolist()
    return Accuracy(top1 / count, top5 / count, loss / count, round(count), round(nonfinite))


def is_among_best(logits: Tensor, labels: Tensor, num_best: int) -> Tensor:
    """Whether each label [B] is among the ``num_best`` largest of the logits [B, K]; [B], bool.

    It is if fewer than ``num_best`` other classes have a logit that is as large. A tie thus counts
    against the label, wherever its class stands. Logits that are not valid have no correct label.
    """
    own = logits.gather(1, labels[:, None])
    num_as_large = (~(logits < own)).sum(dim=1) - 1
    return (num_as_large < num_best) & are_valid(logits)


def low_accuracy_text(accuracy: Accuracy, min_top1: float) -> str:
    """The message about a teacher whose accuracy is below the spec's threshold."""
    return (
        f"teacher.min_top1: the teacher's top-1 is {accuracy.top1:.4f} on {accuracy.num_images} "
        f"evaluated images, below {min_top1}; check that its classes are in the dataset's order, "
        "that teacher.normalization is the one it was trained with, and that evaluation."
        "resize_size and crop_size suit it"
    )
