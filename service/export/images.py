"""The real images that an export is checked on, and that int8 is calibrated and measured on."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.batches import Batch, UndecodableSampleError, center_crop
from data_pipeline.beton import BetonError, open_beton
from data_pipeline.facts import DatasetFacts, dataset_facts
from data_pipeline.files import is_remote
from data_pipeline.loader import ImageLoader
from service.evaluate.dataset import EvaluatedData, logit_indices
from service.evaluate.options import ModelOptions
from service.evaluate.source import FoundModel
from service.export.options import ARGUMENT
from service.spec.errors import BadInputError, Problem

BATCH_SIZE = 32
# A batch of every size that is checked.
MIN_IMAGES = 7
SEED = 0


class Images(NamedTuple):
    """A .beton whose images a network takes; sizes in pixels.

    ``where``: the option or field that names it. ``max_undecodable``: images that may fail to
    decode, and are then left out.
    """

    where: str
    path: Path
    facts: DatasetFacts
    resize_size: int
    crop_size: int
    max_undecodable: int = 0

    def chosen(self, count: int) -> NDArray[np.int64]:
        """Up to ``count`` samples [N], chosen at random, always the same."""
        order = np.random.default_rng(SEED).permutation(self.facts.num_images)
        return order[:count].astype(np.int64)

    def batches(self, samples: NDArray[np.int64]) -> Iterator[Batch]:
        """Center crops of samples, at most ``BATCH_SIZE`` at a time, as evaluation cuts them.

        Raises:
            BadInputError: too many images do not decode, or the file cannot be read.
        """
        parts = [samples[n : n + BATCH_SIZE] for n in range(0, len(samples), BATCH_SIZE)]
        num_threads = len(os.sched_getaffinity(0))
        try:
            file = open_beton(self.path)
            with ImageLoader(
                file, seed=SEED, num_threads=num_threads, max_undecodable=self.max_undecodable
            ) as loader:
                yield from loader.batches(parts, center_crop(self.resize_size, self.crop_size))
        except (BetonError, UndecodableSampleError, OSError) as error:
            remedy = "convert it again; jobs/verify.py finds the fault"
            raise _refused(self.where, _without_remedy(error), remedy) from error


def data_images(found: FoundModel, path: Path | None) -> Images:
    """The images of --data, by default the run's val; their labels do not matter.

    Raises:
        BadInputError: there is no such file, it cannot be read, or it has too few images.
    """
    return _find(found, "--data", path, "val")


def measured_classes(found: FoundModel, images: Images, *, by_name: bool) -> tuple[int, ...] | None:
    """The network's index of each class of images with labels; None for all as they are.

    Raises:
        BadInputError: the images have no labels, or other classes than the network; see
            ``logit_indices``.
    """
    if images.facts.is_unlabeled:
        wrong = f"{images.path} has no labels, of which int8's accuracy is computed"
        raise _refused(images.where, wrong, "give a file with labels")
    data = EvaluatedData(open_beton(images.path), images.facts)
    return logit_indices(data, found, ModelOptions(ARGUMENT), by_name=by_name)


def calibration_images(found: FoundModel, path: Path | None) -> Images:
    """The images of --calibration, by default the run's train; their labels do not matter.

    Raises:
        BadInputError: there is no such file, it cannot be read, or it has too few images.
    """
    return _find(found, "--calibration", path, "train")


def _find(found: FoundModel, option: str, path: Path | None, split: str) -> Images:
    where, location, max_undecodable = option, str(path), 0
    if path is None:
        where, location, max_undecodable = _of_run(found, option, split)
    try:
        facts = dataset_facts(location)
    except (BetonError, OSError) as error:
        remedy = f"give {option} a .beton of such images"
        raise _refused(where, _without_remedy(error), remedy) from error
    sizes = found.preprocessing.resize_size, found.preprocessing.crop_size
    images = Images(where, Path(location), facts, *sizes, max_undecodable)
    if facts.num_images < MIN_IMAGES:
        wrong = f"{location} has {facts.num_images} images, fewer than {MIN_IMAGES}"
        raise _refused(where, wrong, "give a file with more of them")
    return images


def _of_run(found: FoundModel, option: str, split: str) -> tuple[str, str, int]:
    """The run's file: its name for errors, its path, and the images of it that need not decode."""
    if found.spec is None:
        wrong = f"is absent, and {found.origin} does not say where its images are"
        raise _refused(option, wrong, "give a .beton of such images")
    location = getattr(found.spec.dataset, split)
    if is_remote(location):
        wrong = f"is absent, and the run's {split} is in an object store, {location}"
        raise _refused(option, wrong, "copy it here and give its path")
    return f"{option}: the run's {split}", location, found.spec.dataset.max_undecodable


def _without_remedy(error: Exception) -> str:
    return str(error).rpartition("; ")[0] or str(error)


def _refused(where: str, wrong: str, remedy: str) -> BadInputError:
    return BadInputError("data", [Problem(where, wrong, remedy)])
