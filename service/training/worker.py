"""What a worker owns and can do: data, models, optimizer, progress.

The loop in ``loop.py`` says when; this says how.
"""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data_pipeline.loader import Batch
from service.distillation.task import TaskOutput
from service.problems import EXIT_FAILED
from service.spec import JobSpec
from service.tracking.journal import Journal, Kind
from service.training.batchnorm import RunningStatistics
from service.training.construct import build_task
from service.training.data import StepShare, WorkerData, World
from service.training.evaluation import Accuracy, evaluate
from service.training.feed import on_device
from service.training.metrics import IntervalMetrics
from service.training.mixing import mix
from service.training.nonfinite import dump_samples, stop_text
from service.training.optimizers import build_average, build_optimizer, gradient_norm
from service.training.refusal import refuse, teacher_fault
from service.training.saving import CheckpointError
from service.training.schedule import distillation_warmup, learning_rate
from service.training.state import RunState

Report = Callable[[dict[str, float]], None]
"""Takes the metrics of an epoch; all ranks call it together."""


class Worker:
    """One rank of a training run; use as a context manager, which ends its threads."""

    def __init__(self, spec: JobSpec, world: World, report: Report):
        self._spec, self._world, self._report = spec, world, report
        self._method = spec.effective_method()
        torch.set_num_threads(world.num_cpus)
        # Every rank builds the same weights; DDP then only confirms it.
        torch.manual_seed(spec.seed)
        self._task = build_task(spec, world.device)
        self._student = self._task.student
        self._journal = Journal(spec.run_path) if world.rank == 0 else None
        self._data = WorkerData(spec, world, self._journal.note if self._journal else print)
        self._num_steps_per_epoch = self._data.num_steps_per_epoch
        self._optimizer = build_optimizer(self._student, spec.optimizer)
        decay = spec.training.ema_decay
        self._average = build_average(self._student, decay) if decay else None
        self._statistics = RunningStatistics(self._student)
        self._metrics = IntervalMetrics(world.device, self._method.base_temperature)
        if world.size > 1:
            # A 1x1 kernel is laid out alike in both memory formats, which DDP takes for a fault.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
            self._task.student = DistributedDataParallel(
                self._student,
                device_ids=[world.device] if world.device.type == "cuda" else None,
                forward_sync_buffers=False,
                gradient_as_bucket_view=True,
            )
        self._state = RunState(
            spec,
            world,
            self._student,
            self._average,
            self._optimizer,
            self._statistics,
            self._metrics,
        )
        # After DDP has made all ranks alike: a checkpoint may give them different statistics.
        self.progress = self._state.restore(self._journal.note if self._journal else print)
        self._last_gradient_norm = torch.zeros(())
        self._start_s, self._start_step = time.monotonic(), self.progress.step

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._data.close()
        # The error that ends a run is told, not what it did to a checkpoint.
        with contextlib.suppress(CheckpointError) if kind else nullcontext():
            self._state.wait()

    def check_teacher(self) -> None:
        """Measure the teacher, once in a run.

        Raises:
            RefusedError: it is below the spec's bar.
        """
        teacher = self._spec.teacher
        if teacher is None or self.progress.teacher_top1 is not None:
            return
        if teacher.min_top1 is not None:
            found = self._evaluate_teacher(teacher.min_top1_images)
            if found.top1 < teacher.min_top1:
                refuse(self._spec, self._world.rank, teacher_fault(self._spec, found))
        accuracy = self._evaluate_teacher(self._data.num_val_images)
        self.progress.teacher_top1, self.progress.teacher_top5 = accuracy.top1, accuracy.top5
        self._record("teacher", accuracy.as_metrics("teacher"))
        self._metrics.reset()

    def _evaluate_teacher(self, num_images: int) -> Accuracy:
        """Accuracy on val images spread evenly over the file."""
        assert self._task.teacher is not None
        num_images = min(num_images, self._data.num_val_images)
        spread = np.linspace(0, self._data.num_val_images - 1, num_images).astype(np.int64)
        return self._evaluate(self._task.teacher, spread)

    def _evaluate(self, classify: Callable[[Tensor], Tensor], chosen: np.ndarray) -> Accuracy:
        batches = self._data.val_batches(chosen)
        with self._task.autocast(self._world.device):
            return evaluate(classify, batches, self._world.device)

    def remaining_batches(self) -> Iterator[Batch]:
        """This worker's batches of the current epoch, from the step it stands at."""
        progress = self.progress
        self._student.train()
        batches = self._data.train_batches(progress.epoch, progress.step_in_epoch)
        return self._metrics.timed(on_device(batches, self._world.device))

    def step(self, batch: Batch) -> TaskOutput:
        """One optimizer step; returns the last micro-batch's output."""
        spec, progress = self._spec, self.progress
        rate = learning_rate(
            spec.schedule, spec.optimizer.learning_rate, progress.step, self._num_steps_per_epoch
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        before = [t.clone() for t in self._statistics.state()], self._metrics.state()
        output = self._accumulate_gradients(batch)
        # Averaged over the workers, the gradient is the same on all: they decide alike.
        norm = gradient_norm(self._student)
        if torch.isfinite(norm):
            self._update(norm)
        else:
            self._statistics.restore(before[0])
            self._metrics.restore(before[1])
            self._go_without(batch, norm)
        progress.step += 1
        progress.step_in_epoch += 1
        self._last_learning_rate = rate
        return output

    def _update(self, norm: Tensor) -> None:
        max_norm = self._spec.training.max_grad_norm
        if max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._student.parameters(), max_norm, norm)
        self._last_gradient_norm = norm
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self._student)

    def _go_without(self, batch: Batch, norm: Tensor) -> None:
        """Write down the samples of a step that must not count, and go on or not.

        Raises:
            RefusedError: the spec says stop, or too many steps were skipped.
        """
        spec, progress, rank = self._spec, self.progress, self._world.rank
        dump = dump_samples(spec.run_path, rank, progress, batch, float(norm))
        may_skip = spec.training.on_nonfinite == "skip"
        if not may_skip or progress.skipped >= spec.training.max_skipped_steps:
            refuse(spec, rank, stop_text(spec, progress, dump), EXIT_FAILED)
        progress.skipped += 1
        if self._journal is not None:
            self._journal.note(f"step {progress.step} skipped: its gradient is {float(norm)}")

    def _accumulate_gradients(self, batch: Batch) -> TaskOutput:
        """Mean gradient over all images of the step, averaged over workers with the last part."""
        share = self._data.step_share(self.progress.step_in_epoch)
        images, targets = self._mixed(batch)
        micro = self._spec.micro_batch_size
        pairs = list(zip(torch.split(images, micro), torch.split(targets, micro), strict=True))
        weights = self._weights([len(pixels) for pixels, _ in pairs], share)
        warmup = distillation_warmup(self.progress.epoch, self._method.warmup_epochs)
        with self._statistics.step(weights) as running:
            for index, (pixels, labels) in enumerate(pairs):
                # Dropout and its like draw from (seed, step, micro-batch), whoever computes it.
                torch.manual_seed(self._draw_seed(index))
                with _synchronized(self._task.student, index == len(pairs) - 1):
                    output = self._task(pixels, labels, warmup)
                    torch.autograd.backward(output.loss * weights[index])
                running.micro_batch_done()
                self._metrics.add(output, weights[index])
        self._metrics.step_done(share.num_mine)
        return output

    def _weights(self, sizes: list[int], share: StepShare) -> list[float]:
        """Share of each micro-batch in the mean over the step, times the number of workers."""
        if share.num_mine == 0:
            return [0.0] * len(sizes)
        return [size * self._world.size / share.num_global for size in sizes]

    def _mixed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images and what they are to be recognised as."""
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
            epoch=self.progress.epoch,
        )

    def _draw_seed(self, index: int) -> int:
        spec = self._spec
        position = self._world.rank * (spec.batch_size_per_worker // spec.micro_batch_size) + index
        key = [self._spec.seed, self.progress.step, position]
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)

    @property
    def _num_steps(self) -> int:
        return self._spec.schedule.num_epochs * self._num_steps_per_epoch

    def log_if_due(self, output: TaskOutput) -> None:
        """At the interval's end, read the metrics and write them to the journal."""
        step = self.progress.step
        self._has_just_logged = (
            step % self._spec.tracking.log_every_steps == 0 or step == self._num_steps
        )
        if not self._has_just_logged or self._metrics.is_empty:
            return
        values = self._metrics.read(output)
        if self._spec.dataset.max_undecodable:
            values["undecodable"] = self._data.count_undecodable()
        values["learning_rate"] = self._last_learning_rate
        values["gradient_norm"] = float(self._last_gradient_norm)
        if self._spec.training.on_nonfinite == "skip":
            values["skipped_steps"] = self.progress.skipped
        self._record("interval", values)

    def _record(self, kind: Kind, values: dict[str, float]) -> None:
        if self._journal is None:
            return
        progress = self.progress
        done = progress.step - self._start_step
        elapsed_s = time.monotonic() - self._start_s
        eta_s = elapsed_s / done * (self._num_steps - progress.step) if done else None
        self._journal.append(kind, progress.step, progress.epoch, values, eta_s)

    def save_if_due(self) -> None:
        """Save within an epoch, where the spec's steps or minutes say so."""
        if self.progress.step_in_epoch < self._num_steps_per_epoch:
            self._state.save_if_due(self.progress, looks_at_clock=self._has_just_logged)

    def finish_epoch(self) -> None:
        """Count the epoch; evaluate and save where the spec says so, and after the last."""
        spec, progress = self._spec, self.progress
        progress.epoch += 1
        progress.step_in_epoch = 0
        is_last = progress.epoch == spec.schedule.num_epochs
        evaluates = is_last or progress.epoch % spec.evaluation.every_epochs == 0
        saves = is_last or progress.epoch % spec.checkpoints.every_epochs == 0
        if not evaluates and not saves:
            return
        with self._metrics.pause():
            self._statistics.synchronize()
            if self._average is not None:
                RunningStatistics(self._average).synchronize()
            metrics = self._evaluate_student() if evaluates else {}
            if saves:
                self._state.save(progress)
            if is_last:
                self._state.wait()
            self._report({**metrics, "step": progress.step, "epoch": progress.epoch})

    def _evaluate_student(self) -> dict[str, float]:
        model = self._average if self._average is not None else self._student
        model.eval()
        accuracy = self._evaluate(
            lambda pixels: model(self._task.normalizer(pixels)),
            np.arange(self._data.num_val_images),
        )
        progress = self.progress
        progress.last_top1, progress.last_top5 = accuracy.top1, accuracy.top5
        if progress.best_top1 is None or accuracy.top1 > progress.best_top1:
            progress.best_top1, progress.best_top5 = accuracy.top1, accuracy.top5
            progress.best_epoch = progress.epoch
        metrics = accuracy.as_metrics("val")
        if self._spec.dataset.max_undecodable:
            metrics["undecodable"] = self._data.count_undecodable()
        self._record("evaluation", metrics)
        return metrics


def _synchronized(student: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Gradients travel between workers once per step, with the last micro-batch."""
    if is_last or not isinstance(student, DistributedDataParallel):
        return nullcontext()
    return student.no_sync()
