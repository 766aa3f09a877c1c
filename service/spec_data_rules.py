"""Rules about the images a spec names: readable, labelled within the classes, large enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.beton import BetonError, BetonFile, open_beton
from service.problems import Problem

if TYPE_CHECKING:
    from service.spec import JobSpec


def check_data(spec: JobSpec) -> Iterator[Problem]:
    """Files that can be read, labels within the classes, images large enough."""
    for split in ("train", "val"):
        path = getattr(spec.dataset, split)
        where = f"dataset.{split}"
        try:
            file = open_beton(path)
        except BetonError as error:
            text, _, remedy = str(error).rpartition("; ")
            yield Problem(where, text, remedy)
            continue
        yield from _check_labels(where, file, spec.dataset.num_classes)
        if split == "train":
            yield from _check_train_images(spec, file)
        else:
            yield from _check_val_images(spec, file)


def _check_labels(where: str, file: BetonFile, num_classes: int) -> Iterator[Problem]:
    low, high = int(file.labels.min()), int(file.labels.max())
    if low < 0 or high >= num_classes:
        yield Problem(
            where,
            f"{file.path} has labels {low} to {high}",
            f"dataset.num_classes is {num_classes}: it must be at least {high + 1}",
        )


def _check_train_images(spec: JobSpec, file: BetonFile) -> Iterator[Problem]:
    augmentation, training = getattr(spec, "augmentation", None), getattr(spec, "training", None)
    if training and file.num_samples < training.global_batch_size:
        yield Problem(
            "training.global_batch_size",
            f"is {training.global_batch_size} but {file.path} has {file.num_samples} images",
            "make it no larger than the training set",
        )
    if augmentation is None:
        return
    sizes, size = file.image_sizes, augmentation.size
    if augmentation.crop == "pad_and_crop":
        if not np.all(sizes == size):
            yield Problem(
                "augmentation.size",
                f"is {size} but {file.path} has images of {_span(sizes)} pixels",
                "pad_and_crop needs images of exactly that size; use it or random_resized",
            )
    else:
        yield from _check_resolution("augmentation.size", size, sizes, file.path)


def _check_val_images(spec: JobSpec, file: BetonFile) -> Iterator[Problem]:
    if evaluation := getattr(spec, "evaluation", None):
        yield from _check_resolution(
            "evaluation.crop_size", evaluation.crop_size, file.image_sizes, file.path
        )


def _check_resolution(where: str, size: int, sizes: Any, path: Path) -> Iterator[Problem]:  # noqa: ANN401 - NDArray
    """Most images must be at least as large as what is asked of them."""
    typical = int(np.median(sizes.min(axis=1)))
    if typical < size:
        yield Problem(
            where,
            f"is {size} but the shorter side of the images in {path} is typically {typical} pixels",
            f"use at most {typical}, or convert the images at a higher resolution",
        )


def _span(sizes: Any) -> str:  # noqa: ANN401 - NDArray
    low, high = int(sizes.min()), int(sizes.max())
    return str(low) if low == high else f"{low} to {high}"
