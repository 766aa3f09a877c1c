"""Whether a run's teacher is usable: its accuracy before training, and finite logits."""

from collections.abc import Callable

from data_pipeline.loader import Batch
from service.distillation.task import DistillationTask
from service.run.control import abort_run
from service.run.progress import Progress
from service.spec.job import JobSpec
from service.training.distributed import World
from service.training.evaluation import Accuracy, Classifier, evaluate, low_accuracy_text
from service.training.nonfinite import teacher_text
from service.training.run_log import RunLog


class TeacherCheck:
    """Evaluates the teacher of a run; all ranks call each method together.

    ``evaluate_all``: evaluates a classifier on the first images of the evaluated split, or on all.
    """

    def __init__(
        self,
        spec: JobSpec,
        world: World,
        task: DistillationTask,
        evaluate_all: Callable[[Classifier, int | None], Accuracy],
    ):
        self._spec, self._world, self._task = spec, world, task
        self._evaluate_all = evaluate_all

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
        spec = self._spec
        assert spec.teacher is not None
        if spec.teacher.min_top1 is not None:
            found = self._evaluated(spec.teacher.min_top1_images)
            if found.top1 < spec.teacher.min_top1:
                text = low_accuracy_text(found, spec.teacher.min_top1)
                abort_run(spec.run_path, self._world.rank, text)
        # A trial of a sweep is one of many with this teacher: it is not evaluated in each.
        if spec.dataset.held_out is None:
            accuracy = self._evaluated(None)
            progress.teacher_top1, progress.teacher_top5 = accuracy.top1, accuracy.top5
            log.record("teacher", progress, accuracy.as_metrics("teacher"))

    def require_finite_on(self, batch: Batch) -> None:
        """Abort the run if the teacher, which may not have been evaluated, is what is not finite.

        Raises:
            RunAbortedError: on all ranks.
        """
        if self._task.teacher is not None:
            with self._task.autocast(self._world.device):
                self._require_finite(evaluate(self._task.teacher, [batch], self._world))

    def _evaluated(self, num_images: int | None) -> Accuracy:
        assert self._task.teacher is not None
        found = self._evaluate_all(self._task.teacher, num_images)
        self._require_finite(found)
        return found

    def _require_finite(self, found: Accuracy) -> None:
        if found.num_nonfinite:
            text = teacher_text(self._spec, found.num_nonfinite, found.num_images)
            abort_run(self._spec.run_path, self._world.rank, text)
