"""What a worker owns and can do: data, models, optimizer, progress.

The loop in ``loop.py`` says when; this says how.
"""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import TracebackType
from typing import NoReturn, Self

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from data_pipeline.loader import Batch
from service.distillation.task import TaskOutput
from service.files import WriterToken
from service.problems import EXIT_FAILED
from service.spec import JobSpec
from service.tracking.journal import JOURNAL_NAME, Journal, Kind
from service.training.agreement import Agreement, Findings
from service.training.construct import build_task
from service.training.data import WorkerData
from service.training.feed import on_device
from service.training.gradients import GradientComputer
from service.training.leaving import LeavingError, Notice, RequestWatch
from service.training.measuring import Evaluator, MustLeaveError
from service.training.metrics import IntervalMetrics
from service.training.nonfinite import dump_samples, stop_text
from service.training.optimizers import build_average, build_optimizer, gradient_norm
from service.training.refusal import refuse, teacher_fault
from service.training.saving import CheckpointError, CheckpointSaver
from service.training.schedule import learning_rate
from service.training.state import RunState
from service.training.world import World

Report = Callable[[dict[str, float]], None]
"""Takes the metrics of an epoch; all ranks call it together."""


class Worker:
    """One rank of a training run; use as a context manager, which ends its threads."""

    def __init__(self, spec: JobSpec, world: World, report: Report, notice: Notice):
        self._spec, self._world, self._report, self._notice = spec, world, report, notice
        torch.set_num_threads(world.num_cpus)
        # Every rank builds the same weights; DDP then only confirms it.
        torch.manual_seed(spec.seed)
        self._task = build_task(spec, world.device)
        self._student = self._task.student
        self._journal: Journal | None = None
        saver: CheckpointSaver | None = None
        if world.rank == 0:
            self._journal, saver = _writers(spec)
        note = self._journal.note if self._journal else print
        self._data = WorkerData(spec, world, note)
        self._agreement = Agreement(world, spec.resources.collective_timeout_s)
        self._num_steps_per_epoch = self._data.num_steps_per_epoch
        self._optimizer = build_optimizer(self._student, spec.optimizer)
        decay = spec.training.ema_decay
        self._average = build_average(self._student, decay) if decay else None
        self._metrics = IntervalMetrics(world, spec.effective_method().base_temperature)
        if world.size > 1:
            self._task.student = _distributed(self._student, world)
        self._state = RunState(
            spec, world, self._student, self._average, self._optimizer, self._metrics, saver
        )
        self._gradients = GradientComputer(
            spec, world, self._task, self._state.statistics, self._metrics
        )
        self._evaluator = Evaluator(
            self._task,
            self._data,
            world,
            lambda: self._agreement.reach(self._findings()).must_leave,
        )
        # After DDP has made all ranks alike: a checkpoint may give them different statistics.
        self.progress = self._state.restore(note)
        if self.progress.step == 0 and spec.training.on_nonfinite == "roll_back":
            self._state.save(self.progress)
        self._found = Findings()
        self._last_gradient_norm = torch.zeros(())
        self._start_s, self._start_step = time.monotonic(), self.progress.step
        workers = "1 worker" if world.size == 1 else f"{world.size} workers"
        self._record("start", {}, f"training on {workers}, from step {self._start_step}")
        self._requests = RequestWatch(spec.run_path) if world.rank == 0 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._data.close()
        if self._requests is not None:
            self._requests.close()
        # The error that ends a run is told, not what it did to a checkpoint.
        with contextlib.suppress(CheckpointError) if kind else nullcontext():
            self._state.wait()

    def check_teacher(self) -> None:
        """Measure the teacher, once in a run; where images are held out, only against the bar.

        Raises:
            RefusedError: it is below the spec's bar.
            LeavingError: the workers must leave; the state is saved.
        """
        teacher = self._spec.teacher
        if teacher is None or self.progress.teacher_top1 is not None or self.progress.step > 0:
            return
        model = self._task.teacher
        assert model is not None
        try:
            if teacher.min_top1 is not None:
                found = self._evaluator.measure(model, teacher.min_top1_images)
                if found.top1 < teacher.min_top1:
                    refuse(self._spec, self._world.rank, teacher_fault(self._spec, found))
            if self._spec.dataset.held_out is not None:
                # One of many runs that choose settings; each would measure the same again.
                self._metrics.reset()
                return
            accuracy = self._evaluator.measure(model)
        except MustLeaveError:
            self._save_and_leave()
        self.progress.teacher_top1, self.progress.teacher_top5 = accuracy.top1, accuracy.top5
        self._record("teacher", accuracy.as_metrics("teacher"))
        self._metrics.reset()

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
        before = [t.clone() for t in self._state.statistics.state()], self._metrics.state()
        self._agreement.begin(self._findings())
        share = self._data.step_share(progress.step_in_epoch)
        output, loss = self._gradients.compute(batch, share, progress)
        # Averaged over the workers, the gradient is the same on all: they decide alike.
        norm = gradient_norm(self._student)
        if torch.isfinite(norm):
            self._update(norm)
        else:
            self._state.statistics.restore(before[0])
            self._metrics.restore(before[1])
            self._go_without(batch, float(loss), float(norm))
        self._found = self._agreement.end()
        progress.step += 1
        progress.step_in_epoch += 1
        self._last_learning_rate = rate
        return output

    def _findings(self) -> Findings:
        """What this worker has noticed by now."""
        # The step that begins has ended when what is found here is acted on.
        is_due = self._state.is_due(self.progress.step + 1)
        return Findings(is_due, self._reason_to_leave() is not None)

    def _reason_to_leave(self) -> str | None:
        if self._requests is not None and self._requests.request is not None:
            return f"asked to {self._requests.request}"
        return self._notice()

    def _update(self, norm: Tensor) -> None:
        max_norm = self._spec.training.max_grad_norm
        if max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._student.parameters(), max_norm, norm)
        self._last_gradient_norm = norm
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self._student)

    def _go_without(self, batch: Batch, loss: float, norm: float) -> None:
        """Write down the samples of a step that must not count, and go on or not.

        Raises:
            RefusedError: the spec says stop, or this has happened too often.
        """
        spec, progress, rank = self._spec, self.progress, self._world.rank
        dump_samples(spec.run_path, rank, progress, batch, loss, norm)
        may_go_on = spec.training.on_nonfinite != "stop"
        if not may_go_on or progress.skipped >= spec.training.max_skipped_steps:
            refuse(spec, rank, stop_text(spec, progress), EXIT_FAILED)
        progress.skipped += 1
        text = f"step {progress.step} skipped: its loss or gradient is not finite on a worker"
        if spec.training.on_nonfinite == "roll_back":
            text += f"; rolled back to the weights of step {self._state.roll_back()}"
        if self._journal is not None:
            self._journal.note(text)

    @property
    def _num_steps(self) -> int:
        return self._spec.schedule.num_epochs * self._num_steps_per_epoch

    def log_if_due(self, output: TaskOutput) -> None:
        """At the interval's end, read the metrics and write them to the journal."""
        step = self.progress.step
        is_due = step % self._spec.tracking.log_every_steps == 0 or step == self._num_steps
        if not is_due or self._metrics.is_empty:
            return
        values = self._metrics.read(output)
        if self._spec.dataset.max_undecodable:
            values["undecodable"] = self._data.count_undecodable()
        values["learning_rate"] = self._last_learning_rate
        values["gradient_norm"] = float(self._last_gradient_norm)
        if self._spec.training.on_nonfinite != "stop":
            values["skipped_steps"] = self.progress.skipped
        self._record("interval", values)

    def _record(
        self, kind: Kind, values: dict[str, float], text: str = "", epoch: int | None = None
    ) -> None:
        if self._journal is None:
            return
        progress = self.progress
        epoch = progress.epoch if epoch is None else epoch
        done = progress.step - self._start_step
        elapsed_s = time.monotonic() - self._start_s
        eta_s = elapsed_s / done * (self._num_steps - progress.step) if done else None
        self._journal.append(kind, progress.step, epoch, values, eta_s, text)

    def save_or_leave(self) -> None:
        """Save where the spec's steps or minutes say so, or for the last time.

        Raises:
            LeavingError: the workers must leave; the state is saved.
        """
        is_epoch_done = self.progress.step_in_epoch == self._num_steps_per_epoch
        if self._found.must_leave:
            self._save_and_leave(is_evaluated=not is_epoch_done)
        if self._found.is_time_to_save and not is_epoch_done:
            self._state.save(self.progress)

    def _save_and_leave(self, *, is_evaluated: bool = True) -> NoReturn:
        reason = self._reason_to_leave() or "another worker must leave"
        self._state.save(self.progress, is_evaluated=is_evaluated)
        self._state.wait()
        # Nobody leaves before it is on the disk.
        self._agreement.reach(Findings())
        raise LeavingError(f"{reason}; everything up to step {self.progress.step} is saved")

    def finish_epoch(self) -> None:
        """Count the epoch; evaluate and save where the spec says so, and after the last.

        Raises:
            LeavingError: the workers must leave; the state is saved.
        """
        spec, progress = self._spec, self.progress
        epoch = progress.epoch + 1
        is_last = epoch == spec.schedule.num_epochs
        evaluates = is_last or epoch % spec.evaluation.every_epochs == 0
        saves = is_last or epoch % spec.checkpoints.every_epochs == 0
        metrics: dict[str, float] = {}
        with self._metrics.pause():
            # Where the spec says, and not where clocks do: averaging rounds.
            if evaluates or saves:
                self._state.synchronize()
            if evaluates:
                metrics = self._evaluate_student(epoch)
            progress.epoch, progress.step_in_epoch = epoch, 0
            if saves or self._found.is_time_to_save:
                self._state.save(progress)
            if is_last:
                self._state.wait()
            if evaluates or saves:
                self._report({**metrics, "step": progress.step, "epoch": progress.epoch})

    def _evaluate_student(self, epoch: int) -> dict[str, float]:
        model = self._average if self._average is not None else self._student
        model.eval()
        try:
            accuracy = self._evaluator.measure(lambda pixels: model(self._task.normalizer(pixels)))
        except MustLeaveError:
            self._state.undo_synchronize()
            self._save_and_leave(is_evaluated=False)
        progress = self.progress
        progress.last_top1, progress.last_top5 = accuracy.top1, accuracy.top5
        if progress.best_top1 is None or accuracy.top1 > progress.best_top1:
            progress.best_top1, progress.best_top5 = accuracy.top1, accuracy.top5
            progress.best_epoch = epoch
        metrics = accuracy.as_metrics(self._spec.dataset.evaluated)
        if self._spec.dataset.max_undecodable:
            metrics["undecodable"] = self._data.count_undecodable()
        self._record("evaluation", metrics, epoch=epoch)
        return metrics


def _writers(spec: JobSpec) -> tuple[Journal, CheckpointSaver]:
    """What rank 0 writes into the run's folder, which is its own from now on.

    Raises:
        CheckpointError: the storage is not there.
    """
    try:
        token = WriterToken(spec.run_path)
    except OSError as error:
        raise CheckpointError(
            f"{spec.run_path} cannot be written ({error.strerror}); mend the storage, then submit "
            "the same spec again"
        ) from error
    journal = Journal(spec.run_path / JOURNAL_NAME, spec.tracking.journal_limit_bytes, token)
    saver = CheckpointSaver(
        spec.run_path, spec.content_hash(), spec.checkpoints.num_to_keep, journal, token
    )
    return journal, saver


def _distributed(student: torch.nn.Module, world: World) -> DistributedDataParallel:
    # A 1x1 kernel is laid out alike in both memory formats, which DDP takes for a fault.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
    return DistributedDataParallel(
        student,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
    )
