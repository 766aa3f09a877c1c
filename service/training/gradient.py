"""The gradient of one optimizer step, micro-batch by micro-batch.

It does not depend on which worker computes which micro-batch, except for the order of sums.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data_pipeline.loader import Batch
from service.distillation.objective import DistillationTask, TaskOutput
from service.run.progress import Progress
from service.spec.job import JobSpec
from service.training.batchnorm import RunningStatistics
from service.training.data import StepShare
from service.training.distributed import World
from service.training.metrics import IntervalMetrics
from service.training.mixing import mix
from service.training.optimizers import distillation_warmup


class StepGradient(NamedTuple):
    """``loss``: this worker's part of the step's mean loss. ``output``: the last micro-batch's."""

    output: TaskOutput
    loss: Tensor


class GradientComputer:
    """Leaves the mean gradient over all images of a step in the student's parameters."""

    def __init__(
        self,
        spec: JobSpec,
        world: World,
        task: DistillationTask,
        statistics: RunningStatistics,
        metrics: IntervalMetrics,
    ):
        self._spec, self._world, self._task = spec, world, task
        self._statistics, self._metrics = statistics, metrics
        self._warmup_epochs = spec.effective_method().warmup_epochs

    def compute(self, batch: Batch, share: StepShare, progress: Progress) -> StepGradient:
        """Gradients of this worker's images, averaged over workers with the last micro-batch."""
        images, targets = self._mixed(batch, progress.epoch)
        micro = self._spec.micro_batch_size
        pairs = list(zip(torch.split(images, micro), torch.split(targets, micro), strict=True))
        weights = self._weights([len(pixels) for pixels, _ in pairs], share)
        warmup = distillation_warmup(progress.epoch, self._warmup_epochs)
        loss = torch.zeros((), device=self._world.device)
        with self._statistics.step(weights) as running:
            for index, (pixels, labels) in enumerate(pairs):
                # Dropout and similar layers draw from (seed, step, micro-batch) on any worker.
                torch.manual_seed(
                    _draw_seed(self._spec.seed, progress.step, share.first_micro_batch + index)
                )
                with _synchronized(self._task.student, index == len(pairs) - 1):
                    output = self._task(pixels, labels, warmup)
                    weighted = output.loss * weights[index]
                    # A loss that is not finite makes its gradient NaN, and with it the mean over
                    # the workers, so all of them notice without communicating.
                    torch.autograd.backward(weighted, 1.0 + 0.0 * weighted.detach())
                running.micro_batch_done()
                loss += weighted.detach()
                self._metrics.add(output, weights[index])
        self._metrics.step_done(share.num_local)
        return StepGradient(output, loss)

    def _weights(self, sizes: list[int], share: StepShare) -> list[float]:
        """Share of each micro-batch in the mean over the step, times the number of workers."""
        if share.num_local == 0:
            return [0.0] * len(sizes)
        return [size * self._world.size / share.num_global for size in sizes]

    def _mixed(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Images, and their labels [B] or label distributions [B, K]."""
        mixing = self._spec.augmentation.mixing
        if mixing is None:
            return batch.images, batch.labels
        return mix(
            mixing,
            batch.images,
            batch.labels,
            batch.indices,
            num_classes=self._spec.dataset.num_classes,
            seed=self._spec.seed,
            epoch=epoch,
        )


def _draw_seed(seed: int, step: int, micro_batch: int) -> int:
    key = [seed, step, micro_batch]
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def _synchronized(student: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Gradients are all-reduced once per step, with the last micro-batch."""
    if is_last or not isinstance(student, DistributedDataParallel):
        return nullcontext()
    return student.no_sync()
