"""Measures on this machine how long a job's training steps take, with random pixels."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from service.distillation.task import DistillationTask, MicroBatch
from service.models.build import build_model
from service.models.weights import file_metadata, save_weights
from service.run.execution import Execution
from service.spec.job import JobSpec
from service.spec.networks import STUDENT, changed_networks, teacher_networks
from service.spec.sections import Weights
from service.training.factory import build_task

# Images per measured step: beyond it, the time of an image changes little on CPUs.
MAX_IMAGES = 64
MIN_STEPS, MAX_STEPS = 2, 5
LIMIT_S = 2.0


class ImageTime(NamedTuple):
    """Seconds per image of one worker: in a training step, and in an evaluation."""

    training_s: float
    evaluation_s: float


def can_time(spec: JobSpec) -> bool:
    """Whether this machine has what the job trains on."""
    return not spec.resources.gpu or torch.cuda.is_available()


def num_that_fit(spec: JobSpec) -> int:
    """Runs at a time that fit on the cores, or the GPUs, of this machine; at least one."""
    resources = spec.resources
    num_cpus = (os.cpu_count() or 1) // (resources.max_workers * resources.cpus_per_worker)
    if not resources.gpu:
        return max(1, num_cpus)
    return max(1, min(num_cpus, torch.cuda.device_count() // resources.max_workers))


def time_images(spec: JobSpec) -> ImageTime:
    """Time a few steps of student, teacher and losses, after one that warms up.

    Decoding, which happens meanwhile on other cores or threads, is not included, nor are the
    optimizer and the exchange of gradients.
    """
    device = torch.device("cuda" if spec.resources.gpu else "cpu")
    num_threads = torch.get_num_threads()
    torch.set_num_threads(min(spec.resources.cpus_per_worker, os.cpu_count() or 1))
    try:
        task, (views, batch) = _random_task(spec, device), _random_batch(spec, device)
        student = task.trainee.student
        assert isinstance(student, torch.nn.Module)

        def train() -> None:
            torch.autograd.backward(task(views, batch).loss)
            task.trainee.zero_grad()

        def evaluate() -> None:
            with torch.inference_mode(), task.autocast(device):
                student(task.normalizer(views[0]))

        count = len(batch.targets)
        return ImageTime(_seconds(train, device) / count, _seconds(evaluate, device) / count)
    finally:
        torch.set_num_threads(num_threads)


def _random_task(spec: JobSpec, device: torch.device) -> DistillationTask:
    """The job's task with random weights, which take the same time."""
    changes: dict[str, dict[str, object]] = {STUDENT: {"weights": None}}
    with tempfile.TemporaryDirectory() as folder:
        for path, network in teacher_networks(spec.teacher).items():
            model, file = build_model(network.model, spec.num_classes_of(path)), Path(folder) / path
            save_weights(model.state_dict(), file, file_metadata(model))
            changes[path] = {"weights": Weights(source=str(file))}
            if network.classes == "by_name":
                # What they are is not known before the weights are fetched.
                changes[path] |= {"classes": None}
        changed = changed_networks(spec.student, spec.teacher, changes)
        # What auto means is found out by the runs themselves; here it counts as float32.
        return build_task(spec.model_copy(update=changed), device, Execution.plain(spec))


def _random_batch(spec: JobSpec, device: torch.device) -> tuple[list[Tensor], MicroBatch]:
    count, size = min(spec.micro_batch_size, MAX_IMAGES), spec.augmentation.largest_size
    num_views = 1 if spec.augmentation.strong is None else 2
    shape = (count, size, size, 3)

    def pixels() -> Tensor:
        return torch.randint(256, shape, dtype=torch.uint8, device=device)

    labels = torch.randint(spec.dataset.num_classes, (count,), device=device)
    return [pixels() for _ in range(num_views)], MicroBatch(labels, epoch=0)


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    """Shortest time of some calls: other programs of the machine only add to it."""
    call()
    times: list[float] = []
    while len(times) < MIN_STEPS or (len(times) < MAX_STEPS and sum(times) < LIMIT_S):
        _wait(device)
        start_s = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - start_s)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
