"""The student's evaluation: its metrics, and as a file what it predicts after the last epoch."""

import math

from torch import nn

from service.distillation.task import DistillationTask
from service.run.predictions import (
    STUDENT_PREDICTIONS_NAME,
    TEACHER_PREDICTIONS_NAME,
    agreement,
    predictions_if_usable,
    reliability,
)
from service.spec.job import JobSpec
from service.training.data import WorkerData
from service.training.distributed import World
from service.training.evaluation import Accuracy, Evaluator
from service.training.peak_memory import PEAK_MEMORY_METRIC, PeakMemory
from service.training.prediction_recorder import PredictionRecorder


class StudentEvaluation:
    """Evaluates ``model``, the student or its average; all ranks make the same calls."""

    def __init__(
        self,
        spec: JobSpec,
        world: World,
        task: DistillationTask,
        model: nn.Module,
        data: WorkerData,
        evaluator: Evaluator,
        memory: PeakMemory,
    ):
        self._spec, self._world, self._task, self._model = spec, world, task, model
        self._data, self._evaluator, self._memory = data, evaluator, memory

    def run(self, *, is_last: bool) -> tuple[Accuracy, dict[str, float]]:
        """The accuracy, and all metrics by name.

        Raises:
            EvaluationStopped: the workers must stop.
        """
        self._model.eval()
        recorder = PredictionRecorder()
        accuracy = self._evaluator.evaluate(
            lambda pixels: self._model(self._task.normalizer(pixels)), recorder=recorder
        )
        values = accuracy.as_metrics(self._spec.dataset.evaluated)
        values |= self._recorded(recorder, is_last=is_last)
        values |= self._data.undecodable_metrics()
        values[PEAK_MEMORY_METRIC] = self._memory.read()
        return accuracy, values

    def _recorded(self, recorder: PredictionRecorder, *, is_last: bool) -> dict[str, float]:
        """Calibration error and agreement with the teacher; the last predictions are written."""
        spec = self._spec
        found = recorder.gathered(self._world, spec.resources.collective_timeout_s)
        if self._world.rank != 0:
            return {}
        if is_last:
            found.write(spec.run_path / STUDENT_PREDICTIONS_NAME)
        values = {"ece": reliability(found).calibration_error}
        teacher = predictions_if_usable(spec.run_path / TEACHER_PREDICTIONS_NAME)
        if teacher is not None:
            values["agreement"] = agreement(found, teacher)
        group = spec.dataset.evaluated
        return {f"{group}/{name}": v for name, v in values.items() if math.isfinite(v)}
