"""What a worker reads: its share of both datasets, wherever they lie."""

import datetime
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

from data_pipeline.beton import BetonFile, open_beton
from data_pipeline.held_out import Indices, split_held_out
from data_pipeline.loader import Batch, ImageLoader, UndecodableSampleError, center_crop
from data_pipeline.order import (
    evaluation_batches,
    num_in_step,
    num_of_part,
    num_steps_per_epoch,
    part_of_worker,
    train_batches,
)
from service.spec import JobSpec
from service.training.construct import augmentations, train_crop
from service.training.refusal import refuse
from service.training.world import World

# Copying a dataset may take hours on one node while the others wait for it.
STAGING_LIMIT = datetime.timedelta(days=1)


class StepShare(NamedTuple):
    """Images of a step: this worker's, and all workers' together; and which micro-batches of it
    this worker's images are, by the first one.
    """

    num_mine: int
    num_global: int
    first_micro_batch: int


class WorkerData:
    """One worker's view of the training and the validation set; close it at the end.

    Raises:
        RefusedError: on all ranks, where a dataset cannot be had on one of them.
    """

    def __init__(self, spec: JobSpec, world: World, note: Callable[[str], None]):
        self._spec, self._world = spec, world
        self._resources = ExitStack()
        files = _same_files_everywhere(spec, world, self._resources, note)
        samples = _samples(spec, files)
        self._train_samples, self._val_samples = samples
        self.num_train_images, self.num_val_images = map(len, samples)
        self._train_loader, self._val_loader = (
            self._resources.enter_context(
                ImageLoader(
                    file,
                    seed=spec.seed,
                    num_threads=world.num_cpus,
                    pin_memory=world.device.type == "cuda",
                    max_undecodable=spec.dataset.max_undecodable,
                    substitutes=these,
                )
            )
            for file, these in zip(files, samples, strict=True)
        )

    def close(self) -> None:
        """End the decoding threads and allow the eviction of staged files."""
        self._resources.close()

    @property
    def num_steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return num_steps_per_epoch(
            self.num_train_images,
            self._spec.training.global_batch_size,
            keep_last=self._spec.keeps_last_batch,
        )

    def count_undecodable(self) -> int:
        """Different images found not to decode by any worker since it started; all ranks call it.

        Raises:
            UndecodableSampleError: more than the spec allows, on all ranks.
        """
        found = [self._train_loader.undecodable, self._val_loader.undecodable]
        if self._world.size > 1:
            answers: list[list[set[int]]] = [found] * self._world.size
            dist.all_gather_object(answers, found)
            found = [set().union(*of_file) for of_file in zip(*answers, strict=True)]
        limit = self._spec.dataset.max_undecodable
        if max(map(len, found)) > limit:
            raise UndecodableSampleError(
                f"{max(map(len, found))} images do not decode and dataset.max_undecodable is "
                f"{limit}; jobs/verify.py lists them, convert again"
            )
        return sum(map(len, found))

    def step_share(self, step_in_epoch: int) -> StepShare:
        """How many images of a step count, here and everywhere."""
        batch_size = self._spec.training.global_batch_size
        num_global = num_in_step(self.num_train_images, batch_size, step_in_epoch)
        part = self._part()
        first = part.start // self._spec.micro_batch_size
        return StepShare(num_of_part(num_global, part), num_global, first)

    def train_batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """This worker's batches of an epoch, from a step on."""
        spec = self._spec
        indices = train_batches(
            self.num_train_images,
            spec.training.global_batch_size,
            seed=spec.seed,
            epoch=epoch,
            part=self._part(),
            start=start,
            keep_last=spec.keeps_last_batch,
        )
        samples = (self._train_samples[places] for places in indices)
        crop = train_crop(spec.augmentation, spec.image_size(epoch))
        return self._train_loader.batches(samples, crop, epoch, augmentations=augmentations(spec))

    def _part(self) -> slice:
        """This worker's places in each global batch."""
        batch_size = self._spec.training.global_batch_size
        world = self._world
        return part_of_worker(batch_size, self._spec.micro_batch_size, world.rank, world.size)

    def num_val_batches(self, num_images: int) -> int:
        """Batches that an evaluation of so many images has on the worker with most of them."""
        return -(-num_images // (self._world.size * self._spec.evaluation.batch_size))

    def val_batches(self, chosen: NDArray[np.int64]) -> Iterator[Batch]:
        """This worker's share of the chosen images of the validation set, given by place."""
        evaluation = self._spec.evaluation
        shares = evaluation_batches(
            len(chosen),
            evaluation.batch_size,
            rank=self._world.rank,
            world_size=self._world.size,
        )
        crop = center_crop(evaluation.resize_size, evaluation.crop_size)
        samples = (self._val_samples[chosen[share]] for share in shares)
        return self._val_loader.batches(samples, crop)


def _samples(spec: JobSpec, files: list[BetonFile]) -> tuple[Indices, Indices]:
    """Which samples of the two files are trained on, and which are evaluated."""
    held_out = spec.dataset.held_out
    if held_out is not None:
        labels = files[0].samples["label"].astype(np.int64)
        return split_held_out(labels, held_out.num_images, held_out.seed)
    train, val = (np.arange(file.num_samples, dtype=np.int64) for file in files)
    return train, val


def _same_files_everywhere(
    spec: JobSpec, world: World, resources: ExitStack, note: Callable[[str], None]
) -> list[BetonFile]:
    """Both files, staged if the spec says so; all ranks have the same ones, or all refuse.

    Where images of train are held out, they take the place of val.
    """
    fault, files = "", []
    splits = ("train", "val") if spec.dataset.held_out is None else ("train", "train")
    try:
        for split in splits:
            path = _local_path(spec, getattr(spec.dataset, split), resources, note)
            files.append(open_beton(path))
    except ValueError as error:
        fault = f"dataset.{split}: {error}"
    limit = STAGING_LIMIT
    if spec.dataset.cache is None:
        limit = datetime.timedelta(seconds=spec.resources.collective_timeout_s)
    answers = _tell_all((fault, [file.identity for file in files]), world, limit)
    for rank, (other_fault, _) in enumerate(answers):
        if other_fault:
            refuse(spec, world.rank, f"{other_fault} (worker {rank})")
    for rank, (_, identities) in enumerate(answers):
        if identities != answers[0][1]:
            refuse(
                spec,
                world.rank,
                f"dataset: the files of worker {rank} are not those of worker 0; give paths that "
                "lead to the same files on every node",
            )
    return files


def _local_path(
    spec: JobSpec, location: str, resources: ExitStack, note: Callable[[str], None]
) -> Path:
    cache = spec.dataset.cache
    if cache is None:
        return Path(location)
    # Imported here: object stores' libraries take their time, and most runs need none.
    from data_pipeline.staging import Cache, stage

    staged = stage(location, Cache(cache.path, cache.limit_bytes), report=note)
    return resources.enter_context(staged).path


def _tell_all(
    answer: tuple[str, list[str]], world: World, limit: datetime.timedelta
) -> list[tuple[str, list[str]]]:
    """Every rank's answer, by rank; waits for the slowest."""
    if world.size == 1:
        return [answer]
    group = dist.new_group(backend="gloo", timeout=limit)
    assert isinstance(group, dist.ProcessGroup), "every rank is in the group"
    answers: list[tuple[str, list[str]]] = [answer] * world.size
    dist.all_gather_object(answers, answer, group=group)
    dist.destroy_process_group(group)
    return answers
