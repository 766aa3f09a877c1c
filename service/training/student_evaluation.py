"""The student's evaluation: its metrics, and after the last epoch what it predicts."""

import math

from torch import nn

from service.distillation.task import DistillationTask
from service.run.predictions import (
    STUDENT_PREDICTIONS_NAME,
    TEACHER_PREDICTIONS_NAME,
    agreement,
    read_predictions,
    reliability,
)
from service.spec.errors import BadInputError
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
        recorder = PredictionRecorder() if is_last else None
        accuracy = self._evaluator.evaluate(
            lambda pixels: self._model(self._task.normalizer(pixels)), recorder=recorder
        )
        values = accuracy.as_metrics(self._spec.dataset.evaluated)
        if recorder is not None:
            values |= self._recorded(recorder)
        values |= self._data.undecodable_metrics()
        values[PEAK_MEMORY_METRIC] = self._memory.read()
        return accuracy, values

    def _recorded(self, recorder: PredictionRecorder) -> dict[str, float]:
        """Write the predictions; their calibration error, and agreement with the teacher's."""
        spec = self._spec
        found = recorder.gathered(self._world, spec.resources.collective_timeout_s)
        if self._world.rank != 0:
            return {}
        found.write(spec.run_path / STUDENT_PREDICTIONS_NAME)
        values = {"ece": reliability(found).calibration_error}
        try:
            teacher = read_predictions(spec.run_path / TEACHER_PREDICTIONS_NAME)
        except BadInputError:
            teacher = None
        if teacher is not None:
            values["agreement"] = agreement(found, teacher)
        group = spec.dataset.evaluated
        return {f"{group}/{name}": v for name, v in values.items() if math.isfinite(v)}
