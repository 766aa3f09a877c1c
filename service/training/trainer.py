"""The training loop of one worker, from the last checkpoint to the last epoch.

Every rank runs the same loop; all synchronize in each step, evaluation and checkpoint.
"""

import contextlib
from collections.abc import Iterator
from contextlib import nullcontext
from typing import NoReturn, Self

import torch

from data_pipeline.batches import Batch
from service.distillation.task import TaskOutput
from service.run.control import (
    GracefulStop,
    RequestWatcher,
    StopNotice,
    abort_run,
)
from service.spec.errors import EXIT_FAILED
from service.spec.job import JobSpec
from service.training.cached_logits import build_teacher_logits
from service.training.checkpoint_saver import CheckpointError
from service.training.cpu_share import share_cpus
from service.training.data import WorkerData
from service.training.device_batches import prefetch_to_device
from service.training.distributed import FlagConsensus, StepFlags, World
from service.training.evaluation import Accuracy, EvaluationStopped, Evaluator
from service.training.execution import decide_execution
from service.training.failure_reports import reported_failures
from service.training.learner import build_learner, build_step
from service.training.memory import (
    model_text,
    training_text,
    with_memory_field,
)
from service.training.nonfinite import student_text
from service.training.optimizers import set_learning_rate
from service.training.peak_memory import PeakMemory
from service.training.run_log import RunLog
from service.training.schedules import learning_rate
from service.training.student_evaluation import StudentEvaluation
from service.training.system_metrics import SystemMetrics
from service.training.teacher_check import TeacherCheck
from service.training.warm_up import warm_up


def train(spec: JobSpec, world: World, notice: StopNotice = lambda: None) -> None:
    """Train this worker's share of ``spec`` to the last epoch.

    A run that is aborted, by all ranks together, leaves the reason in its folder and ends without
    an error.

    Raises:
        GracefulStop: ``notice`` returned a reason, or a request is in the run's folder; the state
            is saved.
        UndecodableSampleError: on one rank; the reason is written too, since a retry would fail.
        DeviceMemoryError, WrongLogitsError: on one rank; as above.
        CheckpointError: the storage fails.
    """
    with reported_failures(spec):
        with with_memory_field(world, model_text(spec)):
            trainer = Trainer(spec, world, notice)
        with trainer, with_memory_field(world, training_text(spec)):
            trainer.run()


class Trainer:
    """One rank of a training run; use it as a context manager, which ends its threads."""

    def __init__(self, spec: JobSpec, world: World, notice: StopNotice):
        self._spec, self._world, self._notice = spec, world, notice
        torch.set_num_threads(share_cpus(world.device, world.num_cpus).num_compute)
        self._log = RunLog(spec, world)
        self._consensus = FlagConsensus(world, spec.resources.collective_timeout_s)
        self._data = WorkerData(spec, world, self._log.note, self._consensus.group)
        with with_memory_field(world, training_text(spec)):
            # Passes as large as a step's.
            execution = decide_execution(spec, world, self._data, self._log.note)
        memory = PeakMemory(world)
        learner = build_learner(spec, world, self._data, execution, self._log, self._consensus)
        self._learner, self._state, self._metrics = learner, learner.state, learner.metrics
        evaluator = Evaluator(spec, learner.task, self._data, world, self._must_stop)
        self._teacher_check = TeacherCheck(spec, world, learner.task, execution, evaluator)
        self._student_evaluation = StudentEvaluation(
            spec, world, learner.task, learner.evaluated, self._data, evaluator, memory
        )
        self._teacher_logits = build_teacher_logits(
            spec, world, learner.task, self._data, execution, self._log.note
        )
        self._step = build_step(
            spec,
            world,
            self._data,
            learner,
            self._teacher_logits,
            self._teacher_check.require_finite_on,
            self._log.note,
        )
        with with_memory_field(world, training_text(spec)):
            warm_up(spec, world, learner, self._data.step_share(0))
        # After DDP has broadcast rank 0's buffers: each rank has its own in the checkpoint.
        self.progress = self._state.restore(self._log.note)
        if self.progress.step == 0 and spec.training.on_nonfinite == "roll_back":
            self._state.save(self.progress)
        self._flags = StepFlags()
        self._num_steps_per_epoch = self._data.num_steps_per_epoch
        self._num_steps = spec.schedule.num_epochs * self._num_steps_per_epoch
        workers = "1 worker" if world.size == 1 else f"{world.size} workers"
        text = f"training on {workers}, from step {self.progress.step}"
        self._log.start(self.progress, self._num_steps, text)
        self._system = SystemMetrics(
            world, self._consensus.group, spec.resources.collective_timeout_s
        )
        self._requests = RequestWatcher(spec.run_path) if world.rank == 0 else None

    def run(self) -> None:
        """Train to the last epoch; see ``train`` for what it raises."""
        self.check_teacher()
        while self.progress.epoch < self._spec.schedule.num_epochs:
            for batch in self.remaining_batches():
                output = self.step(batch)
                self.log_if_due(output)
                self.save_or_stop()
            self.finish_epoch()
        if self.progress.last_nonfinite:
            # Also reached when an aborted run is submitted again.
            text = student_text(self._spec, self.progress)
            abort_run(self._spec.run_path, self._world.rank, text, EXIT_FAILED)

    @property
    def num_whole_steps_per_epoch(self) -> int:
        """Steps of an epoch without a smaller last one."""
        return self._data.num_train_images // self._spec.training.global_batch_size

    def remaining_batches(self) -> Iterator[Batch]:
        """This worker's batches of the current epoch, from the current step on."""
        progress = self.progress
        self._learner.trainee.train()
        batches = self._data.train_batches(progress.epoch, progress.step_in_epoch)
        return self._metrics.timed(prefetch_to_device(batches, self._world.device))

    def step(self, batch: Batch) -> TaskOutput:
        """One optimizer step; returns the last micro-batch's output."""
        spec, progress = self._spec, self.progress
        peak = spec.optimizer.learning_rate
        rate = learning_rate(spec.schedule, peak, progress.step, self._num_steps_per_epoch)
        set_learning_rate(self._learner.optimizer, rate)
        share = self._data.step_share(progress.step_in_epoch)
        output = self._step.run(batch, share, progress, self._exchange_flags)
        progress.step += 1
        progress.step_in_epoch += 1
        self._last_learning_rate = rate
        return output

    def _exchange_flags(self) -> None:
        """A worker that hangs is noticed here, before NCCL's watchdog would end healthy ones."""
        self._flags = self._consensus.reduce(self._own_flags())

    def log_if_due(self, output: TaskOutput) -> None:
        """At the end of a logging interval, read the metrics and write them to the journal."""
        step = self.progress.step
        is_due = step % self._spec.tracking.log_every_steps == 0 or step == self._num_steps
        if not is_due:
            return
        self._step.settle(self.progress)
        if self._metrics.is_empty:
            return
        values = self._metrics.read(output) | self._data.undecodable_metrics() | self._system.read()
        values["train/learning_rate"] = self._last_learning_rate
        values["train/gradient_norm"] = float(self._step.gradient_norm)
        if self._spec.training.on_nonfinite != "stop":
            values["train/skipped_steps"] = self.progress.skipped
        self._log.record("interval", self.progress, values)

    def save_or_stop(self) -> None:
        """Save a checkpoint where the spec's steps or minutes say so, or for the last time.

        Raises:
            GracefulStop: the workers must stop; the state is saved.
        """
        is_epoch_done = self.progress.step_in_epoch == self._num_steps_per_epoch
        if is_epoch_done or any(self._flags):
            self._step.settle(self.progress)
        if self._flags.must_stop:
            self._save_and_stop(is_evaluated=not is_epoch_done)
        if self._flags.is_save_due and not is_epoch_done:
            self._state.save(self.progress)

    def finish_epoch(self) -> None:
        """Count the epoch; evaluate and save where the spec says so, and after the last epoch.

        Raises:
            GracefulStop: the workers must stop; the state is saved.
        """
        spec, progress = self._spec, self.progress
        epoch = progress.epoch + 1
        is_last = epoch == spec.schedule.num_epochs
        evaluates = is_last or epoch % spec.evaluation.every_epochs == 0
        saves = is_last or epoch % spec.checkpoints.every_epochs == 0
        # Before anything of the epoch is saved.
        self._teacher_logits.settle()
        if not is_last:
            self._data.start_ahead(epoch)
        with self._metrics.pause():
            # Only at epochs that the spec names: averaging rounds, so it must not depend on clocks.
            if evaluates or saves:
                self._state.synchronize_statistics()
            evaluated = self._evaluate_student(is_last=is_last) if evaluates else None
            progress.epoch, progress.step_in_epoch = epoch, 0
            self._learner.trainee.objective.end_epoch(self._world.size)
            if evaluated is not None:
                accuracy, values = evaluated
                progress.record_evaluation(
                    accuracy.top1, accuracy.top5, epoch, accuracy.num_nonfinite
                )
                self._log.record_evaluation(self._learner.evaluated, progress, values)
            if saves or self._flags.is_save_due:
                self._state.save(progress)
            if is_last:
                self._state.wait()

    def _evaluate_student(self, *, is_last: bool) -> tuple[Accuracy, dict[str, float]]:
        try:
            return self._student_evaluation.run(is_last=is_last)
        except EvaluationStopped:
            self._state.undo_synchronize()
            self._save_and_stop(is_evaluated=False)

    def check_teacher(self) -> None:
        """Evaluate the teacher, once in a run.

        Raises:
            RunAbortedError: it is below the spec's threshold, or its logits are not finite.
            GracefulStop: the workers must stop; the state is saved.
        """
        if not self._teacher_check.is_due(self.progress):
            return
        try:
            self._teacher_check.evaluate(self.progress, self._log)
        except EvaluationStopped:
            self._save_and_stop()
        self._metrics.reset()

    def _own_flags(self) -> StepFlags:
        """This worker's flags at this moment."""
        # The flags take effect at the end of the step that is running.
        is_save_due = self._state.is_save_due(self.progress.step + 1)
        return StepFlags(is_save_due, self._stop_reason() is not None)

    def _must_stop(self) -> bool:
        return self._consensus.reduce(self._own_flags()).must_stop

    def _stop_reason(self) -> str | None:
        if self._requests is not None and self._requests.request is not None:
            return f"a {self._requests.request} was requested"
        return self._notice()

    def _save_and_stop(self, *, is_evaluated: bool = True) -> NoReturn:
        reason = self._stop_reason() or "another worker must stop"
        self._state.save(self.progress, is_evaluated=is_evaluated)
        self._state.wait()
        # No worker exits before the checkpoint is on the disk.
        self._consensus.reduce(StepFlags())
        raise GracefulStop(f"{reason}; everything up to step {self.progress.step} is saved")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._teacher_logits.close()
        self._data.close()
        self._system.close()
        if self._requests is not None:
            self._requests.close()
        # Report the error that ended training, not that of the checkpoint that it interrupted.
        with contextlib.suppress(CheckpointError) if kind else nullcontext():
            self._state.wait()
