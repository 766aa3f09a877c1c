"""Distillation loops as a user would write them, with the service's networks."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from support.released_loss import released_loss
from support.training_runs import CPU
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from service.distillation.pixels import PixelNormalizer
from service.models.build import build_model, build_with_weights
from service.spec.data_sections import Normalization
from service.spec.job import JobSpec
from service.spec.loading import parse_spec
from service.training.data import WorkerData
from service.training.distributed import World


class PlainStep:
    """Forward and backward passes of both networks and SGD, in float32, on a given batch."""

    def __init__(self, student: str, teacher: str, pixels: Tensor, labels: Tensor):
        num_classes = int(labels.max()) + 1
        self._student = build_model(student, num_classes).train()
        self._teacher = build_model(teacher, num_classes).eval().requires_grad_(False)
        self._normalize = PixelNormalizer(Normalization())
        self._optimizer = torch.optim.SGD(
            self._student.parameters(), 1e-4, momentum=0.9, weight_decay=1e-4
        )
        self._pixels, self._labels = pixels, labels

    def __call__(self) -> None:
        """One step."""
        images = self._normalize(self._pixels).contiguous()
        with torch.no_grad():
            targets = self._teacher(images)
        loss = released_loss(targets, self._student(images), self._labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


def run_bare_rank(
    rank: int, content: dict[str, Any], world_size: int, folder: Path, num_warmup_steps: int
) -> None:
    """One of the processes of a hand-written DDP loop over the spec's data.

    Rank 0 writes the images per second after ``num_warmup_steps`` to ``folder``/rate.
    """
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    torch.set_num_threads(1)
    spec = parse_spec(content)
    data = WorkerData(spec, World(rank, world_size, CPU, 1), print)
    count, start_s = 0, 0.0
    for step, num_images in enumerate(_bare_steps(spec, data)):
        if step == num_warmup_steps - 1:
            count, start_s = 0, time.perf_counter()
        else:
            count += num_images
    if rank == 0:
        rate = world_size * count / (time.perf_counter() - start_s)
        (folder / "rate").write_text(str(rate))
    data.close()
    dist.destroy_process_group()


def _bare_steps(spec: JobSpec, data: WorkerData) -> Iterator[int]:
    """Train to the last epoch; the number of images after each step."""
    assert spec.teacher is not None
    num_classes = spec.dataset.num_classes
    student: nn.Module = build_model(spec.student.model, num_classes)
    student = student.to(memory_format=torch.channels_last).train()
    weights = spec.teacher.weights
    teacher = build_with_weights("teacher", spec.teacher.model, num_classes, weights)
    teacher = teacher.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    normalize = PixelNormalizer(spec.dataset.normalization)
    wrapped = DistributedDataParallel(student, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(
        student.parameters(), spec.optimizer.learning_rate, momentum=0.9, foreach=True
    )
    for epoch in range(spec.schedule.num_epochs):
        for batch in data.train_batches(epoch, start=0):
            images = normalize(batch.images)
            with torch.no_grad():
                targets = teacher(images)
            loss = released_loss(targets, wrapped(images), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield len(batch.labels)
