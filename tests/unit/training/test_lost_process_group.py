"""A worker without its process group must not report local values as those of all workers.

Ray destroys the group after a worker failed, while the other workers still train.
"""

import pytest
import torch
from torch import nn

from data_pipeline.batches import Batch
from service.distillation.losses.base import LossInputs
from service.distillation.task import TaskOutput
from service.training.batchnorm import RunningStatistics
from service.training.distributed import World
from service.training.evaluation import evaluate
from service.training.metrics import IntervalMetrics

ONE_OF_TWO = World(rank=0, size=2, device=torch.device("cpu"), num_cpus=1)


def test_metrics_of_one_of_two_workers_are_not_reported():
    metrics = IntervalMetrics(ONE_OF_TWO, lambda inputs: {})
    inputs = LossInputs(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), epoch=0)
    output = TaskOutput(torch.ones(()), {"loss": torch.ones(())}, inputs)
    metrics.add(output, 1.0)
    metrics.step_done(2, torch.tensor(False))

    with pytest.raises(ValueError, match="process group"):
        metrics.read(output)


def test_accuracy_of_one_of_two_workers_is_not_reported():
    batch = Batch(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), [])

    with pytest.raises(ValueError, match="process group"):
        evaluate(lambda pixels: torch.zeros(len(pixels), 3), [batch], ONE_OF_TWO)


def test_statistics_of_one_of_two_workers_are_not_used_as_the_mean():
    statistics = RunningStatistics(nn.BatchNorm2d(3), ONE_OF_TWO.size)

    with pytest.raises(ValueError, match="process group"):
        statistics.synchronize()
