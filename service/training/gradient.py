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
from service.distillation.task import DistillationTask, MicroBatch, TaskOutput
from service.run.progress import Progress
from service.spec.job import JobSpec
from service.training.batchnorm import RunningStatistics
from service.training.data import StepShare
from service.training.distributed import World
from service.training.metrics import IntervalMetrics
from service.training.mixing import mix, mix_other_view


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

    def compute(self, batch: Batch, share: StepShare, progress: Progress) -> StepGradient:
        """Gradients of this worker's images, averaged over workers with the last micro-batch."""
        micro_batches = self._micro_batches(batch, share, progress.epoch)
        weights = self._weights([len(one.targets) for one in micro_batches], share)
        loss = torch.zeros((), device=self._world.device)
        with self._statistics.step(weights) as running:
            for index, micro_batch in enumerate(micro_batches):
                # Dropout and similar layers draw from (seed, step, micro-batch) on any worker.
                torch.manual_seed(
                    _draw_seed(self._spec.seed, progress.step, share.first_micro_batch + index)
                )
                with _synchronized(self._task.trainee, index == len(micro_batches) - 1):
                    output = self._task(micro_batch)
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

    def _micro_batches(self, batch: Batch, share: StepShare, epoch: int) -> list[MicroBatch]:
        images, strong_images, targets = self._mixed(batch, epoch)
        size = self._spec.micro_batch_size
        weight_in_sums = self._world.size if share.num_local else 0
        views = [torch.split(images, size)]
        if strong_images is not None:
            views.append(torch.split(strong_images, size))
        return [
            MicroBatch(list(pixels), labels, epoch, weight_in_sums)
            for labels, *pixels in zip(torch.split(targets, size), *views, strict=True)
        ]

    def _mixed(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Images of both views, and their labels [B] or label distributions [B, K]."""
        mixing, seed = self._spec.augmentation.mixing, self._spec.seed
        strong_images, indices = batch.strong_images, batch.indices
        if mixing is None:
            return batch.images, strong_images, batch.labels
        num_classes = self._spec.dataset.num_classes
        images, targets = mix(
            mixing,
            batch.images,
            batch.labels,
            indices,
            num_classes=num_classes,
            seed=seed,
            epoch=epoch,
        )
        if strong_images is not None:
            strong_images = mix_other_view(mixing, strong_images, indices, seed=seed, epoch=epoch)
        return images, strong_images, targets


def _draw_seed(seed: int, step: int, micro_batch: int) -> int:
    key = [seed, step, micro_batch]
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def _synchronized(trainee: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Gradients are all-reduced once per step, with the last micro-batch."""
    if is_last or not isinstance(trainee, DistributedDataParallel):
        return nullcontext()
    return trainee.no_sync()
