"""Batches of pixels from a .beton: threads decode ahead; the iterator of batches raises errors.

The caller passes the samples of each batch (see ``order``) and the crop. The loader has no position
of its own, so a run can resume at any step. Files come from ``convert``, pixels of a sample from
``decoders``.
"""

import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline import decoders, view_pairs
from data_pipeline.augmentation.samples import Augmentations, augment_samples
from data_pipeline.batches import Batch, Crop, UndecodableSampleError, chosen_samples
from data_pipeline.beton import BetonFile
from data_pipeline.compiled.counter_rng import STRONG_VIEW, WEAK_VIEW, uniforms
from data_pipeline.decode_threads import decode_threads
from data_pipeline.files import RETRY_PAUSES_S
from data_pipeline.order import samples_and_repeats

NUM_BATCHES_AHEAD = 3
NUM_SUBSTITUTES = 16
# A separate stream, so that substitutes do not depend on the augmentations.
SUBSTITUTE_STREAM = 1000


class _Recipe(NamedTuple):
    """Crop and augmentation of the samples of an iterator, apart from the seed.

    ``strong``: augmentation of the second view; None if there is only one view.
    """

    crop: Crop
    epoch: int
    augmentation: NDArray[np.float64] | None
    strong: NDArray[np.float64] | None


class _Work(NamedTuple):
    """A batch that is being decoded."""

    batch: Batch
    statuses: NDArray[np.int8]
    futures: list[Future[None]]


class ImageLoader:
    """Decodes samples of one file on ``num_threads`` threads; close it, or use it in a ``with``.

    The threads have a lower priority than the caller's, and run on ``cpus``, if given. With
    ``pin_memory`` images and labels are in memory from which a GPU copies by itself.

    Up to ``max_undecodable`` different samples may fail to decode. In training, such a sample is
    replaced by another one, a function of (seed, epoch, sample) alone, so that batches keep their
    size; with CENTER_CROP it is left out. ``substitutes`` are the samples that may replace another,
    all of the file by default.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(
        self,
        file: BetonFile,
        *,
        seed: int,
        num_threads: int,
        cpus: Collection[int] | None = None,
        pin_memory: bool = False,
        max_undecodable: int = 0,
        substitutes: NDArray[np.int64] | None = None,
    ):
        self._file = file
        self._substitutes = np.arange(file.num_samples) if substitutes is None else substitutes
        self._seed = seed
        self._num_threads = num_threads
        self._pin_memory = pin_memory
        self._max_undecodable = max_undecodable
        self.undecodable: set[int] = set()
        """Samples found so far that do not decode."""
        self._descriptor = os.open(file.path, os.O_RDONLY)
        self._pool = decode_threads(num_threads, cpus)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads; batches already taken stay valid."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def batches(
        self,
        index_batches: Iterable[NDArray[np.int64]],
        crop: Crop,
        epoch: int = 0,
        *,
        augmentations: Augmentations | None = None,
        strong: Augmentations | None = None,
    ) -> Iterator[Batch]:
        """One batch for each array [B] of indices, in order; closing the iterator early is safe.

        The first NUM_BATCHES_AHEAD batches are being decoded when this returns. Indices may be
        draws of samples (see ``order.repeated``). With ``strong``, batches have a second view of
        their samples, cropped anew and augmented so.

        Raises:
            UndecodableSampleError: more samples do not decode than are allowed; raised at the batch
                that exceeds the limit, and names the samples.
            OSError: the file has become shorter, or cannot be read.
            MemoryError: there is no memory to decode a sample.
            ValueError: augmentations with values out of their range.
        """
        weak_and_strong = (one.parameters() if one else None for one in (augmentations, strong))
        recipe = _Recipe(crop, epoch, *weak_and_strong)
        works = (self._start(indices, recipe) for indices in index_batches)
        return self._finished(deque(itertools.islice(works, NUM_BATCHES_AHEAD)), works, recipe)

    def _finished(
        self, pending: deque[_Work], upcoming: Iterator[_Work], recipe: _Recipe
    ) -> Iterator[Batch]:
        """The ``pending`` batches and then the ``upcoming`` ones, one started as one is taken."""
        try:
            for work in upcoming:
                pending.append(work)
                yield self._finish(pending.popleft(), recipe)
            while pending:
                yield self._finish(pending.popleft(), recipe)
        finally:
            for work in pending:
                for future in work.futures:
                    future.cancel()

    def _start(self, draws: NDArray[np.int64], recipe: _Recipe) -> _Work:
        indices, repeats = samples_and_repeats(draws)
        labels = torch.from_numpy(self._file.samples["label"][indices].astype(np.int64))
        if self._pin_memory:
            labels = labels.pin_memory()
        strong = None if recipe.strong is None else self._empty(len(indices), recipe.crop.size)
        images = self._empty(len(indices), recipe.crop.size)
        batch = Batch(images, labels, indices, strong, repeats if repeats.any() else None)
        statuses = np.zeros(len(indices), np.int8)
        bounds = np.linspace(0, len(indices), self._num_threads + 1).astype(int)
        futures = [
            self._pool.submit(self._decode, batch, statuses, slice(low, high), recipe)
            for low, high in itertools.pairwise(bounds)
            if high > low
        ]
        return _Work(batch, statuses, futures)

    def _empty(self, num_images: int, size: int) -> Tensor:
        shape = (num_images, size, size, 3)
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self._pin_memory)

    def _decode(
        self, batch: Batch, statuses: NDArray[np.int8], part: slice, recipe: _Recipe
    ) -> None:
        """Fill the images and statuses [B] of a part of a batch."""
        draws, images = batch.draws[part], batch.images[part].numpy()
        crop, seed, epoch = recipe.crop, self._seed, recipe.epoch
        source = (self._descriptor, self._file.storage(batch.indices[part]), draws)
        how = (crop.kind, crop.parameters(), seed, epoch)
        if batch.strong_images is None:
            decoders.decode_samples(*source, *how, images, statuses[part])
        else:
            strong_images = batch.strong_images[part].numpy()
            view_pairs.decode_pairs(*source, *how, images, strong_images, statuses[part])
            augment_samples(strong_images, draws, recipe.strong, seed, epoch, STRONG_VIEW)
        if recipe.augmentation is not None:
            augment_samples(images, draws, recipe.augmentation, seed, epoch, WEAK_VIEW)

    def _finish(self, work: _Work, recipe: _Recipe) -> Batch:
        for future in work.futures:
            future.result()
        self._retry_unreadable(work, recipe)
        batch, failed = work.batch, np.flatnonzero(work.statuses)
        if len(failed) == 0:
            return batch
        for slot in failed:
            self._note_failure(int(batch.indices[slot]), int(work.statuses[slot]))
        if recipe.crop.kind == decoders.CENTER_CROP:
            return chosen_samples(batch, work.statuses == decoders.DECODED)
        batch = batch._replace(indices=batch.indices.copy())
        for slot in failed:
            self._replace(batch, work.statuses, int(slot), recipe)
        return batch

    def _retry_unreadable(self, work: _Work, recipe: _Recipe) -> None:
        """Retry samples that could not be read, unless the file was truncated."""
        for pause_s in RETRY_PAUSES_S:
            unreadable = np.flatnonzero(work.statuses == decoders.UNREADABLE)
            if len(unreadable) == 0 or self._is_cut_off(work.batch.indices[unreadable]):
                return
            time.sleep(pause_s)
            self._reopen()
            for slot in unreadable.tolist():
                self._decode(work.batch, work.statuses, slice(slot, slot + 1), recipe)

    def _is_cut_off(self, indices: NDArray[np.int64]) -> bool:
        """Whether the file ends before these samples do."""
        starts = self._file.samples["image"]["data_ptr"][indices].astype(np.int64)
        end = int((starts + self._file.data_sizes[indices]).max())
        try:
            return self._file.path.stat().st_size < end
        except OSError:
            return False

    def _reopen(self) -> None:
        """After a network mount recovers, the old descriptor may be stale."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self._file.path, os.O_RDONLY)
            os.dup2(descriptor, self._descriptor)
            os.close(descriptor)

    def _note_failure(self, index: int, status: int) -> None:
        """Count a sample that failed.

        Raises:
            UndecodableSampleError: more samples do not decode than are allowed.
            OSError: the sample cannot be read.
            MemoryError: there is no memory to decode it.
        """
        if status == decoders.NO_MEMORY:
            raise MemoryError(f"no memory to decode sample {index} of {self._file.path}")
        if status == decoders.UNREADABLE:
            raise OSError(
                f"{self._file.path}: sample {index} cannot be read; the file was truncated, or its "
                "disk fails"
            )
        self.undecodable.add(index)
        if len(self.undecodable) > self._max_undecodable:
            names = ", ".join(str(index) for index in sorted(self.undecodable)[:10])
            raise UndecodableSampleError(
                f"{self._file.path}: sample {names} does not decode; convert it again, or raise "
                f"dataset.max_undecodable, which is {self._max_undecodable}"
            )

    def _replace(
        self, batch: Batch, statuses: NDArray[np.int8], slot: int, recipe: _Recipe
    ) -> None:
        """Replace a sample that does not decode by one that does, in every view."""
        part = slice(slot, slot + 1)
        numbers = uniforms(
            batch.indices[part], self._seed, recipe.epoch, SUBSTITUTE_STREAM, NUM_SUBSTITUTES
        )[0]
        positions = (numbers * len(self._substitutes)).astype(int)
        for index in self._substitutes[positions].tolist():
            batch.indices[slot] = index
            self._decode(batch, statuses, part, recipe)
            if statuses[slot] == decoders.DECODED:
                batch.labels[slot] = int(self._file.samples["label"][index])
                return
            self._note_failure(index, int(statuses[slot]))
        raise UndecodableSampleError(
            f"{self._file.path}: {NUM_SUBSTITUTES} samples chosen to replace one that does not "
            "decode do not decode either; convert it again"
        )
