"""What a worker trains, and what trains it: built once, before the first step."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from data_pipeline.batches import Batch
from service.distillation.task import DistillationTask, Trainee
from service.run.execution import Execution
from service.spec.job import JobSpec
from service.training.average import WeightAverage
from service.training.compiling import compile_student
from service.training.data import WorkerData
from service.training.distributed import FlagConsensus, World, wrap_ddp
from service.training.factory import build_task
from service.training.gradient import GradientComputer
from service.training.loss_scale import LossScale
from service.training.metrics import IntervalMetrics
from service.training.optimizers import build_optimizer
from service.training.passes import plan_passes
from service.training.run_log import RunLog
from service.training.state import TrainState
from service.training.step import OptimizerStep
from service.training.teacher_logits import TeacherLogits
from service.training.update import WeightUpdate


class Learner(NamedTuple):
    """``trainee`` is what ``task`` trains, without DDP. ``average`` is of the student's weights;
    ``loss_scale`` is float16's: both are None where the run has none.
    """

    execution: Execution
    task: DistillationTask
    trainee: Trainee
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    loss_scale: LossScale | None
    metrics: IntervalMetrics
    state: TrainState

    @property
    def evaluated(self) -> torch.nn.Module:
        """The student whose accuracy counts: the average if there is one."""
        return self.trainee.student if self.average is None else self.average.module


def build_learner(
    spec: JobSpec,
    world: World,
    data: WorkerData,
    execution: Execution,
    log: RunLog,
    consensus: FlagConsensus,
) -> Learner:
    """Networks, losses, optimizer and state, as they are before a checkpoint is loaded.

    Raises:
        BadInputError: a model or weights that cannot be used.
    """
    # Every rank initializes the same weights.
    torch.manual_seed(spec.seed)
    num_images = data.step_share(0).num_local
    task = build_task(spec, world.device, execution, batch_size=num_images, warn=log.note)
    trainee = task.trainee
    assert isinstance(trainee, Trainee)
    optimizer = build_optimizer(trainee, spec.optimizer)
    decay = spec.training.ema_decay
    average = WeightAverage(trainee.student, decay) if decay else None
    loss_scale = LossScale(world.device) if execution.precision == "float16" else None
    metrics = IntervalMetrics(world, trainee.objective.telemetry)
    task.trainee = wrap_ddp(trainee, world)
    state = TrainState(
        spec, world, trainee, average, optimizer, metrics, log.saver, consensus.group, loss_scale
    )
    return Learner(execution, task, trainee, optimizer, average, loss_scale, metrics, state)


def build_step(
    spec: JobSpec,
    world: World,
    data: WorkerData,
    learner: Learner,
    teacher_logits: TeacherLogits,
    require_finite_teacher: Callable[[Batch], None],
    note: Callable[[str], None],
) -> OptimizerStep:
    """The steps of ``learner``; see ``OptimizerStep``."""
    trainee = learner.trainee
    passes = plan_passes(spec, trainee.student, trainee.autocast_dtype, world)
    num_images = data.step_share(0).num_local
    # On fewer workers than the run began with, a step may have several passes.
    is_one_pass = passes.num_passes(num_images, spec.micro_batch_size) == 1
    if learner.execution.compile_student and is_one_pass:
        compile_student(spec, trainee, num_images, note)
    gradient = GradientComputer(
        spec,
        world,
        learner.task,
        teacher_logits,
        learner.state.statistics,
        learner.metrics,
        passes,
        learner.loss_scale,
    )
    update = WeightUpdate(
        learner.trainee,
        learner.optimizer,
        learner.average,
        spec.training.max_grad_norm,
        learner.loss_scale,
        world.size,
    )
    return OptimizerStep(
        spec, world, gradient, update, learner.state, learner.metrics, require_finite_teacher, note
    )
