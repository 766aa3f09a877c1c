"""The gradient of one optimizer step of a worker.

It does not depend on which worker computes which micro-batch, except for the order of sums. Nothing
in it reads a tensor on the host, so that a GPU never waits for its next work.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data_pipeline.batches import Batch
from service.distillation.pixels import PixelBatch
from service.distillation.regions import BACKWARD, STUDENT, TEACHER, region
from service.distillation.task import DistillationTask, MicroBatch, TaskOutput
from service.run.progress import Progress
from service.spec.job import JobSpec
from service.training.batchnorm import RunningStatistics
from service.training.data import StepShare
from service.training.distributed import World
from service.training.loss_scale import LossScale
from service.training.metrics import IntervalMetrics
from service.training.mixing import mixed_views
from service.training.passes import Passes
from service.training.teacher_logits import TeacherLogits, place_of


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
        teacher_logits: TeacherLogits,
        statistics: RunningStatistics,
        metrics: IntervalMetrics,
        passes: Passes,
        loss_scale: LossScale | None = None,
    ):
        self._spec, self._world, self._task = spec, world, task
        self._teacher_logits, self._passes = teacher_logits, passes
        self._statistics, self._metrics = statistics, metrics
        self._loss_scale = loss_scale
        self._one = torch.ones((), device=world.device)

    def compute(self, batch: Batch, share: StepShare, progress: Progress) -> StepGradient:
        """Gradients of this worker's images, averaged over workers with the last pass."""
        views, targets = mixed_views(self._spec, batch, progress.epoch)
        pixels = [PixelBatch(view) for view in views]
        with region(STUDENT):
            images = self._task.student_images(pixels)
        place = place_of(self._spec, share, progress.epoch, progress.step_in_epoch)
        with region(TEACHER):
            teacher_logits = self._teacher_logits.of(pixels, batch, place)
        # Or else images as a teacher normalizes them would be kept until the end of the step.
        del pixels
        micro_batches = self._micro_batches(targets, share, progress.epoch)
        sizes = [len(one.targets) for one in micro_batches]
        weights = self._weights(sizes, share)
        losses, first_image = [], 0
        with self._statistics.step(sizes, weights) as running:
            for in_pass in self._passes.split(len(micro_batches)):
                images_in_pass = slice(first_image, first_image + sum(sizes[i] for i in in_pass))
                first_image = images_in_pass.stop
                self._seed(progress.step, share.first_micro_batch + in_pass.start)
                with _synchronized(self._task.trainee, in_pass.stop == len(micro_batches)):
                    with running.forward_pass(in_pass):
                        outputs = self._task.outputs(
                            micro_batches[in_pass.start : in_pass.stop],
                            [view[images_in_pass] for view in images],
                            [logits[images_in_pass] for logits in teacher_logits],
                        )
                    losses.append(self._backward(outputs, [weights[i] for i in in_pass]))
        return StepGradient(outputs[-1], sum(losses[1:], losses[0]))

    def _backward(self, outputs: list[TaskOutput], weights: list[float]) -> Tensor:
        """Add the gradient of a pass, and its metrics; the weighted loss, without its graph."""
        for output, weight in zip(outputs, weights, strict=True):
            self._metrics.add(output, weight)
        losses = [one.loss for one in outputs]
        parts = [_times(one.detach(), weight) for one, weight in zip(losses, weights, strict=True)]
        weighted = sum(parts[1:], parts[0])
        # A loss that is not finite makes its gradient NaN, and with it the mean over the workers,
        # so all of them notice without communicating.
        seed = torch.add(self._one, weighted, alpha=0.0)
        if self._loss_scale is not None:
            seed = seed * self._loss_scale.scale
        # The weights are factors of the seeds, so that the graph needs no product.
        with region(BACKWARD):
            torch.autograd.backward(losses, [_times(seed, weight) for weight in weights])
        return weighted

    def _weights(self, sizes: list[int], share: StepShare) -> list[float]:
        """Share of each micro-batch in the mean over the step, times the number of workers."""
        if share.num_local == 0:
            return [0.0] * len(sizes)
        return [size * self._world.size / share.num_global for size in sizes]

    def _micro_batches(self, targets: Tensor, share: StepShare, epoch: int) -> list[MicroBatch]:
        weight_in_sums = self._world.size if share.num_local else 0
        parts = torch.split(targets, self._spec.micro_batch_size)
        return [MicroBatch(labels, epoch, weight_in_sums) for labels in parts]

    def _seed(self, step: int, micro_batch: int) -> None:
        """Dropout and similar layers draw from (seed, step, micro-batch) on any worker."""
        if self._passes.draws:
            key = [self._spec.seed, step, micro_batch]
            state = np.random.SeedSequence(key).generate_state(1, np.uint64)
            torch.manual_seed(int(state[0] >> 1))


def _times(value: Tensor, weight: float) -> Tensor:
    """The product; most steps have one micro-batch, of weight 1, and need no operation."""
    return value if weight == 1.0 else value * weight


def _synchronized(trainee: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Gradients are all-reduced once per step, with the last pass."""
    if is_last or not isinstance(trainee, DistributedDataParallel):
        return nullcontext()
    return trainee.no_sync()
