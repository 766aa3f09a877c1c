"""A worker's batches: its share of each global batch and of val, decoded and on the device."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

from data_pipeline.batches import Batch, UndecodableSampleError, center_crop
from data_pipeline.beton import BetonFile, open_beton
from data_pipeline.loader import ImageLoader
from data_pipeline.order import (
    evaluation_batches,
    num_in_slice,
    num_in_step,
    num_steps_per_epoch,
    rank_slice,
    repeated,
    samples_and_repeats,
    train_batches,
)
from data_pipeline.selection import Indices, sample_keys, split_held_out
from service.run.control import abort_run
from service.run.folder import read_tags
from service.spec.job import JobSpec
from service.training.cpu_share import share_cpus
from service.training.distributed import World, gather_from_all
from service.training.factory import augmentations, strong_augmentations, train_crop

# Copying a dataset may take hours on one node while the others wait for it.
STAGING_TIMEOUT_S = 86_400.0


class StepShare(NamedTuple):
    """A worker's share of a step.

    ``num_local`` and ``num_global``: images of this worker and of all workers.
    ``first_micro_batch``: place of this worker's first micro-batch in the global batch.
    """

    num_local: int
    num_global: int
    first_micro_batch: int


class WorkerData:
    """One worker's share of the training and the validation set; close it at the end.

    ``group``: all workers, between CPUs; None where there is only one.

    Raises:
        RunAbortedError: on all ranks, where a dataset cannot be opened on one of them.
    """

    def __init__(
        self,
        spec: JobSpec,
        world: World,
        log: Callable[[str], None],
        group: dist.ProcessGroup | None = None,
    ):
        self._spec, self._world, self._group = spec, world, group
        self._resources = ExitStack()
        self._ahead: tuple[int, Iterator[Batch]] | None = None
        threads = share_cpus(world.device, world.num_cpus)
        files = _open_same_files(spec, world, self._resources, log)
        self.train_fingerprint = files[0].fingerprint
        samples = _samples(spec, files)
        self._train_samples, self._val_samples = samples
        self.num_train_images, self.num_val_images = map(len, samples)
        self._train_loader, self._val_loader = (
            self._resources.enter_context(
                ImageLoader(
                    file,
                    seed=spec.seed,
                    num_threads=threads.num_decode,
                    cpus=threads.decode_cpus,
                    pin_memory=world.device.type == "cuda",
                    max_undecodable=spec.dataset.max_undecodable,
                    substitutes=these,
                )
            )
            for file, these in zip(files, samples, strict=True)
        )

    def close(self) -> None:
        """End the decoding threads and allow the eviction of cached files."""
        self._resources.close()

    @property
    def num_steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return num_steps_per_epoch(
            self.num_train_images,
            self._spec.training.global_batch_size,
            drop_last=self._spec.training.drop_last,
        )

    def undecodable_metrics(self) -> dict[str, float]:
        """Number of distinct images that failed to decode on any worker since it started, where the
        spec allows any. Every rank must call it.

        Raises:
            UndecodableSampleError: more than the spec allows, on all ranks.
        """
        limit = self._spec.dataset.max_undecodable
        if not limit:
            return {}
        found = [self._train_loader.undecodable, self._val_loader.undecodable]
        if self._world.size > 1:
            answers: list[list[set[int]]] = [found] * self._world.size
            dist.all_gather_object(answers, found, group=self._group)
            found = [set().union(*of_file) for of_file in zip(*answers, strict=True)]
        if max(map(len, found)) > limit:
            raise UndecodableSampleError(
                f"{max(map(len, found))} images do not decode and dataset.max_undecodable is "
                f"{limit}; jobs/verify.py lists them, convert again"
            )
        return {"data/undecodable": sum(map(len, found))}

    def step_share(self, step_in_epoch: int) -> StepShare:
        """This worker's share of a step."""
        batch_size = self._spec.training.global_batch_size
        num_global = num_in_step(self.num_train_images, batch_size, step_in_epoch)
        local = self._local_slice()
        first = local.start // self._spec.micro_batch_size
        return StepShare(num_in_slice(num_global, local), num_global, first)

    def start_ahead(self, epoch: int) -> None:
        """Let the first batches of an epoch be decoded while something else runs."""
        self._ahead = (epoch, self._start_epoch(epoch, 0))

    def train_batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """This worker's batches of an epoch, from step ``start`` on."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == epoch and start == 0:
            return ahead[1]
        return self._start_epoch(epoch, start)

    def _start_epoch(self, epoch: int, start: int) -> Iterator[Batch]:
        spec = self._spec
        # A repeated epoch has the samples of an earlier one in the same order, and their crops.
        draw_epoch = spec.draw_epoch(epoch)
        indices = train_batches(
            self.num_train_images,
            spec.training.global_batch_size,
            seed=spec.seed,
            epoch=draw_epoch,
            local=self._local_slice(),
            start=start,
            drop_last=spec.training.drop_last,
            num_repeats=spec.augmentation.repeats,
        )
        samples = (self._draws(places) for places in indices)
        crop = train_crop(spec.augmentation, spec.augmentation.size_at(epoch))
        batches = self._train_loader.batches(
            samples,
            crop,
            draw_epoch,
            augmentations=augmentations(spec),
            strong=strong_augmentations(spec),
        )
        return map(_without_labels, batches) if spec.dataset.unlabeled else batches

    def _draws(self, places: Indices) -> Indices:
        """The same draws of the file's samples at ``places`` of the training set."""
        first, repeats = samples_and_repeats(places)
        return repeated(self._train_samples[first], repeats)

    def _local_slice(self) -> slice:
        """This worker's places in each global batch."""
        batch_size = self._spec.training.global_batch_size
        world = self._world
        return rank_slice(batch_size, self._spec.micro_batch_size, world.rank, world.size)

    def num_val_batches(self, num_images: int) -> int:
        """Batches of an evaluation of ``num_images`` on the worker with the most of them."""
        return -(-num_images // (self._world.size * self._spec.evaluation.batch_size))

    def val_batches(self, chosen: NDArray[np.int64]) -> Iterator[Batch]:
        """This worker's share of the validation images at the places ``chosen``."""
        return self._center_crops(self._val_loader, self._val_samples[chosen])

    def train_center_batches(self, chosen: NDArray[np.int64]) -> Iterator[Batch]:
        """As ``val_batches``, of training images: cropped as evaluation does, not augmented."""
        return self._center_crops(self._train_loader, self._train_samples[chosen])

    def _center_crops(self, loader: ImageLoader, samples: Indices) -> Iterator[Batch]:
        evaluation = self._spec.evaluation
        shares = evaluation_batches(
            len(samples),
            evaluation.batch_size,
            rank=self._world.rank,
            world_size=self._world.size,
        )
        crop = center_crop(evaluation.resize_size, evaluation.crop_size)
        return loader.batches((samples[share] for share in shares), crop)


def _without_labels(batch: Batch) -> Batch:
    """Labels 0, which no loss reads: those of the file need not be classes of the networks."""
    # In place: they stay in pinned memory.
    batch.labels.zero_()
    return batch


def _samples(spec: JobSpec, files: list[BetonFile]) -> tuple[Indices, Indices]:
    """Which samples of the two files are trained on, and which are evaluated."""
    held_out = spec.dataset.held_out
    if held_out is not None:
        keys = sample_keys(files[0])
        return split_held_out(files[0].labels, keys, held_out.num_images, held_out.seed)
    train, val = (np.arange(file.num_samples, dtype=np.int64) for file in files)
    return train, val


def _open_same_files(
    spec: JobSpec, world: World, resources: ExitStack, log: Callable[[str], None]
) -> list[BetonFile]:
    """Both files, from the node's cache if the spec has one; every rank must have the same.

    With held-out images, train takes the place of val.
    """
    fault, files = "", []
    splits = ("train", "val") if spec.dataset.held_out is None else ("train", "train")
    try:
        for split in splits:
            path = _local_path(spec, getattr(spec.dataset, split), resources, log)
            files.append(open_beton(path))
    except ValueError as error:
        fault = f"dataset.{split}: {error}"
    timeout_s = STAGING_TIMEOUT_S
    if spec.dataset.cache is None:
        timeout_s = spec.resources.collective_timeout_s
    answers = gather_from_all((fault, [file.fingerprint for file in files]), world, timeout_s)
    for rank, (other_fault, _) in enumerate(answers):
        if other_fault:
            abort_run(spec.run_path, world.rank, f"{other_fault} (worker {rank})")
    tags, found = read_tags(spec.run_path), answers[0][1]
    for split, fingerprint in zip(splits, found, strict=True):
        expected = tags.get(f"dataset_{split}_fingerprint", fingerprint)
        if fingerprint != expected:
            abort_run(
                spec.run_path,
                world.rank,
                f"dataset.{split}: has changed since the job started: its fingerprint is "
                f"{fingerprint}, not {expected}; restore the file, or use another name",
            )
    for rank, (_, fingerprints) in enumerate(answers):
        if fingerprints != found:
            abort_run(
                spec.run_path,
                world.rank,
                f"dataset: the files of worker {rank} are not those of worker 0; give paths that "
                "lead to the same files on every node",
            )
    return files


def _local_path(
    spec: JobSpec, location: str, resources: ExitStack, log: Callable[[str], None]
) -> Path:
    cache = spec.dataset.cache
    if cache is None:
        return Path(location)
    # Imported here: object stores' libraries are slow to import, and most runs need none.
    from data_pipeline.staging import Cache, stage

    staged = stage(location, Cache(cache.path, cache.limit_bytes), report=log)
    return resources.enter_context(staged).path
