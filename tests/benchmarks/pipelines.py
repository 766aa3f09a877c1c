"""The same training crops by several pipelines: 224 px, random resized crop, flip, normalized.

Every function returns images per second over one epoch, without its warm-up.
"""

import os
import re
import time
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torchvision import datasets, io, transforms
from torchvision.transforms import v2

from data_pipeline import decoders
from data_pipeline.batches import Crop
from data_pipeline.beton import open_beton
from data_pipeline.compiled import counter_rng
from data_pipeline.loader import ImageLoader
from data_pipeline.order import train_batches
from service.distillation.pixels import PixelNormalizer
from service.spec.data_sections import Normalization
from service.spec.fields import IMAGENET_MEAN, IMAGENET_STD

SIZE = 224
BATCH_SIZE = 64
NUM_THREADS = len(os.sched_getaffinity(0))
CROP = Crop(decoders.RANDOM_RESIZED_CROP, SIZE, (0.08, 1.0), (3 / 4, 4 / 3), 0.5)


def images_per_s(batches: Iterable[Tensor]) -> float:
    """Rate from the second batch on: the time to the first depends on the prefetching."""
    iterator = iter(batches)
    next(iterator)
    start_s, count = time.perf_counter(), 0
    for images in iterator:
        assert images.shape[-1] == SIZE or images.shape[-2] == SIZE
        count += len(images)
    return count / (time.perf_counter() - start_s)


class ServicePipeline:
    """This project's loader, and the normalization of its training step."""

    def __init__(self, path: Path, *, normalized: bool):
        self._file = open_beton(path)
        self._normalizer = PixelNormalizer(Normalization()) if normalized else None
        self._epoch = 0

    def __call__(self) -> float:
        """Run one epoch."""
        # The decoding threads use the cores. Set every time, because FFCV's loader sets it too.
        torch.set_num_threads(1)
        self._epoch += 1
        indices = train_batches(self._file.num_samples, BATCH_SIZE, seed=0, epoch=self._epoch)
        with ImageLoader(self._file, seed=0, num_threads=NUM_THREADS) as loader:
            batches = (batch.images for batch in loader.batches(indices, CROP, self._epoch))
            if self._normalizer is None:
                return images_per_s(batches)
            return images_per_s(map(self._normalizer, batches))


def stock_ffcv(path: Path, *, normalized: bool) -> Callable[[], float]:
    """FFCV's own loader, after the warm-up of its compiler."""
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor

    image = [RandomResizedCropRGBImageDecoder((SIZE, SIZE)), RandomHorizontalFlip()]
    if normalized:
        mean, std = (255 * np.array(values) for values in (IMAGENET_MEAN, IMAGENET_STD))
        image.append(NormalizeImage(mean, std, np.float32))
    loader = Loader(
        str(path),
        batch_size=BATCH_SIZE,
        num_workers=NUM_THREADS,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={"image": [*image, ToTensor()], "label": [IntDecoder(), ToTensor()]},
    )
    for _ in loader:
        pass
    return lambda: images_per_s(images for images, _ in loader)


def torchvision_pil(folder: Path) -> Callable[[], float]:
    """ImageFolder and DataLoader as in torchvision's own training script."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, antialias=True),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    return _data_loader(datasets.ImageFolder(str(folder), transform))


def torchvision_decode_jpeg(folder: Path) -> Callable[[], float]:
    """The same with torchvision's own decoder, and tensors from there on."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    def load(path: str) -> Tensor:
        return io.decode_jpeg(io.read_file(path), mode=io.ImageReadMode.RGB)

    return _data_loader(datasets.ImageFolder(str(folder), transform, loader=load))


def _data_loader(dataset: datasets.ImageFolder) -> Callable[[], float]:
    loader = torch.utils.data.DataLoader(
        dataset,
        BATCH_SIZE,
        shuffle=True,
        num_workers=NUM_THREADS,
        drop_last=True,
        persistent_workers=True,
    )
    for _ in loader:
        pass
    return lambda: images_per_s(images for images, _ in loader)


class NondeterministicPipeline(ServicePipeline):
    """This project's loader with numba's own random state in place of the counter-based RNG."""

    def __init__(self, path: Path):
        super().__init__(path, normalized=False)
        self._decode_samples = _compile_with_random_state()

    def __call__(self) -> float:
        """Run one epoch in a random order without a seed."""
        original = decoders.decode_samples
        decoders.decode_samples = self._decode_samples
        order = np.random.permutation(self._file.num_samples)  # noqa: NPY002 - the common practice
        num_batches = len(order) // BATCH_SIZE
        indices = np.split(order[: num_batches * BATCH_SIZE], num_batches)
        try:
            with ImageLoader(self._file, seed=0, num_threads=NUM_THREADS) as loader:
                return images_per_s(batch.images for batch in loader.batches(indices, CROP))
        finally:
            decoders.decode_samples = original


def _compile_with_random_state() -> Callable[..., None]:
    """``decode_samples`` compiled from the same sources, except for its random numbers."""

    @numba.njit(nogil=True)
    def no_key(seed: Any, epoch: Any, index: Any) -> Any:
        return np.uint64(0)

    @numba.njit(nogil=True)
    def random_number(key: Any, counter: Any) -> Any:
        return np.random.random()  # noqa: NPY002 - numba's random state

    module = types.ModuleType("nondeterministic_decoders")
    names = module.__dict__
    names["compiled"] = numba.njit(nogil=True)
    for original in (counter_rng, decoders):
        source = Path(original.__file__).read_text()
        # The names that are imported from there are in ``names`` already.
        source = re.sub(r"^from data_pipeline\.compiled\..*$", "", source, flags=re.MULTILINE)
        exec(compile(source, f"<{original.__name__}>", "exec"), names)
        names |= {"sample_key": no_key, "uniform": random_number}
    return module.decode_samples
