"""Fills an epoch of the teacher's cache: the teacher alone, on the pixels that runs will see."""

from collections.abc import Callable, Iterator

import torch

from data_pipeline.loader import Batch
from service.distillation.pixels import PixelBatch
from service.run.execution import Execution
from service.spec.job import JobSpec
from service.training.cached_logits import CachedTeacherLogits, build_teacher_logits
from service.training.data import WorkerData
from service.training.device_batches import prefetch_to_device
from service.training.distributed import World
from service.training.factory import build_task
from service.training.mixing import mixed_views
from service.training.teacher_logits import StepPlace, place_of


def fill_epoch(
    spec: JobSpec, epoch: int, device: torch.device, note: Callable[[str], None] = print
) -> int:
    """Store the teacher's logits of an epoch as far as they are not there; how many were computed.

    What is stored stays if it ends early, and is not computed again.

    Args:
        spec: of one worker, with a teacher.cache, weights that are files, and the teachers' classes
            resolved.
        epoch: counted from 0.
        device: that the teacher is run on.
        note: takes a message for the log.

    Raises:
        BadInputError: models or weights that cannot be used.
        RunAbortedError: a dataset that cannot be opened; the reason is in the run's folder.
        CacheFillingError: the cache cannot be written, or has no room.
    """
    world = World(0, 1, device, spec.resources.cpus_per_worker)
    torch.set_num_threads(world.num_cpus)
    data = WorkerData(spec, world, note)
    try:
        execution = Execution.plain(spec)
        task = build_task(spec, device, execution)
        logits = build_teacher_logits(spec, world, task, data, execution, note)
        assert isinstance(logits, CachedTeacherLogits)
        num_computed = 0
        for place, batch in _missing(spec, data, logits, epoch, device):
            views, _ = mixed_views(spec, batch, epoch)
            logits.fill([PixelBatch(view) for view in views], batch, place)
            num_computed += place.num_local
        logits.close()
        return num_computed
    finally:
        data.close()


def _missing(
    spec: JobSpec,
    data: WorkerData,
    logits: CachedTeacherLogits,
    epoch: int,
    device: torch.device,
) -> Iterator[tuple[StepPlace, Batch]]:
    """The batches of an epoch whose logits are not stored."""
    places = [
        place_of(spec, data.step_share(step), epoch, step)
        for step in range(data.num_steps_per_epoch)
    ]
    are_missing = [not logits.are_stored(place) for place in places]
    if not any(are_missing):
        return
    start = are_missing.index(True)
    batches = prefetch_to_device(data.train_batches(epoch, start), device)
    for place, batch, is_missing in zip(places[start:], batches, are_missing[start:], strict=True):
        if is_missing:
            yield place, batch
