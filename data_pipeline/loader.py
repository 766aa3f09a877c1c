"""Batches of pixels from a .beton: threads decode ahead, errors arrive where batches are taken.

The loader is told which samples to bring (see ``order``) and how to cut them; it keeps no position
of its own, so a run can go on from any step.
"""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline import decoders
from data_pipeline.beton import BetonFile

NUM_BATCHES_AHEAD = 3


class Batch(NamedTuple):
    """``images`` [B, H, W, 3] uint8 RGB, ``labels`` [B] int64, ``indices`` [B] of the samples.

    A batch owns its memory and may be kept.
    """

    images: Tensor
    labels: Tensor
    indices: NDArray[np.int64]


class Crop(NamedTuple):
    """How an image is cut and changed; ``size`` is the side of the result in pixels."""

    kind: int
    size: int
    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    flip_probability: float = 0.0
    padding: int = 0
    crop_share: float = 1.0

    def parameters(self) -> NDArray[np.float64]:
        """The numbers that the compiled loop reads."""
        last = self.padding if self.kind == decoders.PAD_AND_CROP else self.crop_share
        return np.array([*self.scale, *self.ratio, self.flip_probability, last])


def center_crop(resize_size: int, crop_size: int) -> Crop:
    """Evaluation: shorter side to ``resize_size``, then the central ``crop_size``, in pixels."""
    return Crop(decoders.CENTER_CROP, crop_size, crop_share=crop_size / resize_size)


class UndecodableSampleError(RuntimeError):
    """A stored image that does not decode; the message names file and sample."""


class ImageLoader:
    """Decodes samples of one file on ``num_threads`` threads; close it, or use it in a ``with``."""

    def __init__(
        self, file: BetonFile, crop: Crop, *, seed: int, num_threads: int, pin_memory: bool = False
    ):
        self._file = file
        self._crop = crop
        self._seed = seed
        self._num_threads = num_threads
        self._pin_memory = pin_memory
        self._data = np.memmap(file.path, np.uint8, "r")
        images = file.samples["image"]
        columns = [images[name] for name in ("mode", "height", "width", "data_ptr")]
        self._samples = np.stack([*columns, file.data_sizes], axis=1).astype(np.int64)
        self._labels = file.labels
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; batches already taken stay valid."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def batches(
        self, index_batches: Sequence[NDArray[np.int64]], epoch: int = 0
    ) -> Iterator[Batch]:
        """Yield one batch for each array of indices, in order; leaving early leaks nothing.

        Raises:
            UndecodableSampleError: naming the sample, when its batch is due.
        """
        pending: deque[tuple[Batch, list[Future[int]]]] = deque()
        upcoming = iter(index_batches)
        try:
            for indices in upcoming:
                pending.append(self._start(indices, epoch))
                if len(pending) > NUM_BATCHES_AHEAD:
                    yield self._finish(*pending.popleft())
            while pending:
                yield self._finish(*pending.popleft())
        finally:
            for _, futures in pending:
                for future in futures:
                    future.cancel()

    def _start(self, indices: NDArray[np.int64], epoch: int) -> tuple[Batch, list[Future[int]]]:
        size = self._crop.size
        images = torch.empty(
            (len(indices), size, size, 3), dtype=torch.uint8, pin_memory=self._pin_memory
        )
        labels = torch.from_numpy(self._labels[indices])
        bounds = np.linspace(0, len(indices), self._num_threads + 1).astype(int)
        futures = [
            self._pool.submit(self._decode, indices[low:high], epoch, images[low:high].numpy())
            for low, high in itertools.pairwise(bounds)
            if high > low
        ]
        return Batch(images, labels, indices), futures

    def _decode(self, indices: NDArray[np.int64], epoch: int, out: NDArray[np.uint8]) -> int:
        return int(
            decoders.decode_samples(
                self._data,
                self._samples,
                indices,
                self._crop.kind,
                self._crop.parameters(),
                self._seed,
                epoch,
                out,
            )
        )

    def _finish(self, batch: Batch, futures: list[Future[int]]) -> Batch:
        failed = [index for future in futures if (index := future.result()) >= 0]
        if failed:
            raise UndecodableSampleError(
                f"{self._file.path}: sample {failed[0]} does not decode; the file is damaged, "
                "convert it again"
            )
        return batch
