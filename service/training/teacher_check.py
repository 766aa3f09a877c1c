"""Whether a run's teacher is usable: its accuracy before training, and finite logits."""

from collections.abc import Callable

from data_pipeline.batches import Batch
from service.distillation.task import DistillationTask
from service.run.control import abort_run
from service.run.execution import Execution
from service.run.predictions import Predictions
from service.run.progress import Progress
from service.spec.job import JobSpec
from service.training.distributed import World
from service.training.evaluation import (
    Accuracy,
    Evaluator,
    evaluate,
    low_accuracy_text,
    recorded_accuracy,
)
from service.training.nonfinite import teacher_text
from service.training.prediction_recorder import PredictionRecorder
from service.training.run_log import RunLog
from service.training.teacher_predictions import teacher_predictions


class TeacherCheck:
    """Evaluates the teacher of a run; all ranks call each method together."""

    def __init__(
        self,
        spec: JobSpec,
        world: World,
        task: DistillationTask,
        execution: Execution,
        evaluator: Evaluator,
    ):
        self._spec, self._world, self._task = spec, world, task
        self._execution, self._evaluator = execution, evaluator

    def is_due(self, progress: Progress) -> bool:
        """Whether there is a teacher in use that this run has not evaluated or learned from."""
        is_new = progress.teacher_top1 is None and progress.step == 0
        return self._task.teacher is not None and is_new

    def evaluate(self, progress: Progress, log: RunLog) -> None:
        """Record the teacher's accuracy; with held-out images, only compare it with the threshold.

        Raises:
            RunAbortedError: it is below the spec's threshold, or its logits are not finite.
            EvaluationStopped: the workers must stop.
        """
        if self._spec.dataset.held_out is not None:
            # A trial of a sweep is one of many with this teacher: it is not evaluated in each.
            self._require_min_top1(self._measured)
            return
        predictions = teacher_predictions(self._spec, self._execution, self._world, self._recorded)
        self._require_min_top1(lambda count: recorded_accuracy(predictions.spaced(count)))
        found = recorded_accuracy(predictions)
        progress.teacher_top1, progress.teacher_top5 = found.top1, found.top5
        log.record("teacher", progress, found.as_metrics("teacher"))

    def _recorded(self) -> Predictions:
        """What the teacher predicts for all images, unless it fails on the first ones."""
        self._require_min_top1(self._measured)
        recorder = PredictionRecorder()
        self._measured(None, recorder)
        return recorder.gathered(self._world, self._spec.resources.collective_timeout_s)

    def _require_min_top1(self, measured: Callable[[int], Accuracy]) -> None:
        """Compare the accuracy with the threshold; ``measured``: on this many images."""
        teacher = self._spec.teacher
        assert teacher is not None
        if teacher.min_top1 is None:
            return
        found = measured(teacher.min_top1_images)
        if found.top1 < teacher.min_top1:
            text = low_accuracy_text(found, teacher.min_top1)
            abort_run(self._spec.run_path, self._world.rank, text)

    def require_finite_on(self, batch: Batch) -> None:
        """Abort the run if the teacher, which may not have been evaluated, is what is not finite.

        Raises:
            RunAbortedError: on all ranks.
        """
        if self._task.teacher is not None:
            found = evaluate(self._task.classify_by_teacher, [batch], self._world)
            self._require_finite(found)

    def _measured(
        self, num_images: int | None, recorder: PredictionRecorder | None = None
    ) -> Accuracy:
        found = self._evaluator.evaluate(self._task.classify_by_teacher, num_images, recorder)
        self._require_finite(found)
        return found

    def _require_finite(self, found: Accuracy) -> None:
        if found.num_nonfinite:
            text = teacher_text(self._spec, found.num_nonfinite, found.num_images)
            abort_run(self._spec.run_path, self._world.rank, text)
