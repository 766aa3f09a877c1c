"""Fills an epoch of the teacher's cache: the teacher alone, on the pixels that runs will see."""

from collections.abc import Callable, Iterator

import torch

from data_pipeline.batches import Batch
from service.distillation.pixels import PixelBatch
from service.spec.job import JobSpec
from service.training.cached_logits import CachedTeacherLogits, build_teacher_logits
from service.training.cpu_share import share_cpus
from service.training.data import WorkerData
from service.training.device_batches import prefetch_to_device
from service.training.distributed import World
from service.training.execution import decide_execution
from service.training.factory import build_task
from service.training.mixing import mixed_views
from service.training.teacher_logits import StepPlace, place_of


def fill_epoch(spec: JobSpec, epoch: int, world: World, note: Callable[[str], None] = print) -> int:
    """Store the teacher's logits of an epoch as far as they are not there; how many were computed.

    What is stored stays if it ends early, and is not computed again.

    Args:
        spec: of the runs that will read them, under the name of a folder with the tags that these
            have: what auto means is decided as for them. It has a teacher.cache, weights that are
            files, and the teachers' classes resolved.
        epoch: counted from 0.
        world: one worker, with the device that the teacher is run on.
        note: takes a message for the log.

    Raises:
        BadInputError: models or weights that cannot be used.
        RunAbortedError: a dataset that cannot be opened; the reason is in the run's folder.
        CacheFillingError: the cache cannot be written, or has no room.
    """
    device = world.device
    # As the runs' workers: the machine, of which this is part, is part of what was decided.
    torch.set_num_threads(share_cpus(device, world.num_cpus).num_compute)
    filling = filling_spec(spec)
    data = WorkerData(filling, world, note)
    try:
        execution = decide_execution(spec, world, data, note)
        batch_size = filling.training.global_batch_size
        task = build_task(filling, device, execution, batch_size=batch_size, warn=note)
        logits = build_teacher_logits(filling, world, task, data, execution, note)
        assert isinstance(logits, CachedTeacherLogits)
        num_computed = 0
        for place, batch in _missing(filling, data, logits, epoch, device):
            views, _ = mixed_views(filling, batch, epoch)
            logits.fill([PixelBatch(view) for view in views], batch, place)
            num_computed += place.num_local
        logits.close()
        return num_computed
    finally:
        data.close()


def filling_spec(spec: JobSpec) -> JobSpec:
    """The spec of one worker, whose batches are those of one of the workers of ``spec``: of the
    same shapes. Where samples repeat within a global batch, they are whole ones.
    """
    num_micro_batches = spec.num_micro_batches
    if spec.augmentation.repeats == 1:
        num_micro_batches = -(-num_micro_batches // spec.resources.max_workers)
    batch = {
        "global_batch_size": num_micro_batches * spec.micro_batch_size,
        "micro_batch_size": spec.micro_batch_size,
    }
    return spec.model_copy(
        update={
            "training": spec.training.model_copy(update=batch),
            "resources": spec.resources.model_copy(update={"num_workers": 1}),
        }
    )


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
