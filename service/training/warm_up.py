"""What is compiled is compiled before the first step, in a pass of blank images on each worker.

Rank 0 has decided with the compiler's caches of its node; another node's may be empty, and it would
compile for minutes while the others wait for its first step, for collective_timeout_s at most.
"""

from contextlib import nullcontext

import torch
from torch.nn.parallel import DistributedDataParallel

from service.distillation.pixels import PixelBatch
from service.distillation.task import MicroBatch
from service.spec.job import JobSpec
from service.training.data import StepShare
from service.training.distributed import World, gather_from_all
from service.training.execution import DECISION_TIMEOUT_S
from service.training.learner import Learner


def warm_up(spec: JobSpec, world: World, learner: Learner, share: StepShare) -> None:
    """Compile the networks, for each size of image; waits for all ranks, which call it together.

    ``share``: of a whole step. Nothing that is trained or counted changes. Without compiled code
    there is nothing to do.
    """
    execution = learner.execution
    if not (execution.compile_student or execution.teacher_form == "compiled"):
        return
    augmentation = spec.augmentation
    sizes = {augmentation.size, *(stage.size for stage in augmentation.size_stages)}
    before = learner.state.snapshot()
    learner.trainee.train()
    is_gpu = world.device.type == "cuda"
    with torch.random.fork_rng(devices=[world.device] if is_gpu else []):
        for size in sorted(sizes):
            _blank_step(spec, world, learner, share, size)
    learner.optimizer.zero_grad(set_to_none=True)
    learner.state.undo_step(before, torch.ones((), dtype=torch.bool, device=world.device))
    gather_from_all(None, world, DECISION_TIMEOUT_S + spec.resources.collective_timeout_s)


def _blank_step(spec: JobSpec, world: World, learner: Learner, share: StepShare, size: int) -> None:
    """The passes of a step, whose gradients stay on this worker; the student's if it is compiled.

    Then it has one pass, of the same micro-batches as here: BatchNorm's code depends on them.
    """
    task, count = learner.task, share.num_local
    blank = torch.zeros(count, size, size, 3, dtype=torch.uint8, device=world.device)
    views = [PixelBatch(blank)] * (1 if spec.augmentation.strong is None else 2)
    teacher_logits = task.teacher_logits(views)
    if learner.trainee.student_forward is None:
        return
    labels = torch.zeros(count, dtype=torch.int64, device=world.device)
    parts = torch.split(labels, spec.micro_batch_size)
    micro_batches = [MicroBatch(part, epoch=0) for part in parts]
    sizes = [len(part) for part in parts]
    weights = [one * world.size / share.num_global for one in sizes]
    trainee = task.trainee
    # What workers do together would have the timeout of a step.
    alone = trainee.no_sync() if isinstance(trainee, DistributedDataParallel) else nullcontext()
    with learner.state.statistics.step(sizes, weights) as running, alone:
        with running.forward_pass(range(len(sizes))):
            outputs = task.outputs(micro_batches, task.student_images(views), teacher_logits)
        torch.autograd.backward([one.loss for one in outputs])
