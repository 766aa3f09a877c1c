"""One optimizer step of a worker: gradient, flags, update, and what happens if it is not finite.

Nothing waits for the device within a step. Whether a step was finite is decided on the device,
where one that is not leaves everything as it was, and read during the next one.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from data_pipeline.batches import Batch
from service.distillation.regions import OPTIMIZER, region
from service.distillation.task import TaskOutput
from service.run.control import abort_run
from service.run.progress import Progress
from service.spec.errors import EXIT_FAILED
from service.spec.job import JobSpec
from service.training.data import StepShare
from service.training.distributed import World
from service.training.gradient import GradientComputer, StepGradient
from service.training.metrics import IntervalMetrics
from service.training.nonfinite import dump_samples, stop_text
from service.training.outcome import LaunchedStep, Outcome, OutcomeReader
from service.training.state import StepSnapshot, TrainState
from service.training.update import WeightUpdate


class OptimizerStep:
    """Makes the steps of one worker, and settles those whose gradient was not finite.

    ``require_finite_teacher`` aborts the run if the teacher is what is not finite on a batch.
    ``note`` writes a line to the run's log.
    """

    def __init__(
        self,
        spec: JobSpec,
        world: World,
        gradient: GradientComputer,
        update: WeightUpdate,
        state: TrainState,
        metrics: IntervalMetrics,
        require_finite_teacher: Callable[[Batch], None],
        note: Callable[[str], None],
    ):
        self._spec, self._world = spec, world
        self._gradient, self._update, self._state, self._metrics = gradient, update, state, metrics
        self._require_finite_teacher, self._note = require_finite_teacher, note
        self._outcome = OutcomeReader(world.device)
        self.gradient_norm = torch.zeros((), device=world.device)
        """Of the last step that was finite, on the device."""

    def run(
        self, batch: Batch, share: StepShare, progress: Progress, when_launched: Callable[[], None]
    ) -> TaskOutput:
        """Make a step; returns the last micro-batch's output.

        ``when_launched`` is called when the gradient's work is launched, before anything waits for
        the device.
        """
        gradient, before = self._launch(batch, share, progress)
        when_launched()
        if self.settle(progress):
            # The previous step was rolled back: this one starts from other weights.
            self._metrics.forget_step()
            gradient, before = self._launch(batch, share, progress)
        with region(OPTIMIZER):
            checked = self._update.check(gradient.loss)
            norm, is_skipped = checked.gradient_norm, checked.is_skipped
            self._state.undo_step(before, is_skipped)
            self._update.apply(checked)
        self._metrics.step_done(share.num_local, is_skipped)
        self.gradient_norm = torch.where(is_skipped, self.gradient_norm, norm)
        launched = LaunchedStep(replace(progress), batch, share.num_local)
        self._outcome.launched(launched, gradient.loss, checked)
        return gradient.output

    def _launch(
        self, batch: Batch, share: StepShare, progress: Progress
    ) -> tuple[StepGradient, StepSnapshot]:
        self._update.clear_gradients()
        before = self._state.snapshot()
        return self._gradient.compute(batch, share, progress), before

    def settle(self, progress: Progress) -> bool:
        """Read how the last step ended, and do what the spec says if it was not finite.

        It waits for the end of that step, and must be called before its results are used. Returns
        whether the weights were rolled back.

        Raises:
            RunAbortedError: the spec says stop, or this has happened too often.
        """
        outcome = self._outcome.read()
        if outcome is None or not outcome.is_skipped:
            return False
        # The gradient is averaged over the workers, so all of them get here.
        self._metrics.uncount_step(outcome.step.num_local)
        if not outcome.is_nonfinite:
            # The scaled loss has overflowed; the next one is scaled less.
            return False
        self._skip(outcome, progress)
        return self._spec.training.on_nonfinite == "roll_back"

    def _skip(self, outcome: Outcome, progress: Progress) -> None:
        training, rank, step = self._spec.training, self._world.rank, outcome.step
        dump_samples(self._spec.run_path, rank, outcome)
        may_skip = training.on_nonfinite != "stop"
        if not may_skip or progress.skipped >= training.max_skipped_steps:
            self._require_finite_teacher(step.batch)
            abort_run(self._spec.run_path, rank, stop_text(self._spec, step.progress), EXIT_FAILED)
        progress.skipped += 1
        text = f"step {step.progress.step} skipped: its loss or gradient is not finite on a worker"
        if training.on_nonfinite == "roll_back":
            text += f"; rolled back to the weights of step {self._state.roll_back()}"
        if rank == 0:
            self._note(text)
