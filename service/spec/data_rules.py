"""Rules about the images a spec names: readable, labeled within the classes, enough of them."""

from collections.abc import Iterator, Mapping

import numpy as np

from data_pipeline.facts import DatasetFacts, dataset_facts
from data_pipeline.files import is_remote
from data_pipeline.selection import num_held_out_per_class
from service.spec.data_sections import Augmentation, Dataset
from service.spec.errors import Problem
from service.spec.training_section import Training


def read_facts(dataset: Dataset) -> tuple[dict[str, DatasetFacts], list[Problem]]:
    """What train and val contain, by split, as far as they can be read; and why not."""
    facts: dict[str, DatasetFacts] = {}
    problems = []
    for split in ("train", "val"):
        try:
            # Where some samples may be broken, finding one is no reason to stop.
            checks_samples = dataset.max_undecodable == 0
            facts[split] = dataset_facts(getattr(dataset, split), checks_samples=checks_samples)
        except ValueError as error:
            problems.append(_problem(f"dataset.{split}", str(error)))
        except OSError as error:
            wrong = f"{getattr(dataset, split)} cannot be read ({error.strerror})"
            problems.append(Problem(f"dataset.{split}", wrong, "check the storage"))
    return facts, problems


def check_data(
    facts: Mapping[str, DatasetFacts],
    dataset: Dataset,
    augmentation: Augmentation | None,
    training: Training | None,
) -> Iterator[Problem]:
    """Labels within the classes, enough images of the size that is needed, a cache where one is.

    ``facts`` are those of the splits that can be read; a section is None if it is not valid.
    """
    for split in ("train", "val"):
        location = getattr(dataset, split)
        where = f"dataset.{split}"
        if is_remote(location) and dataset.cache is None:
            yield Problem(
                "dataset.cache",
                f"is absent, but {where} is {location}",
                'give a folder on the nodes\' own disks, as in {"path": "/scratch/datasets"}',
            )
        if split in facts and not (split == "train" and dataset.unlabeled):
            yield from _check_labels(where, location, facts[split], dataset.num_classes)
    if "train" in facts:
        yield from _check_train_images(facts["train"], dataset, augmentation, training)
    if len(facts) == 2:
        if not dataset.unlabeled:
            yield from _check_classes(facts["train"], facts["val"])
        yield from _check_cache(dataset, facts)


def _check_classes(train: DatasetFacts, val: DatasetFacts) -> Iterator[Problem]:
    """A label must mean the same class in both files."""
    if train.classes is None or val.classes is None or train.classes == val.classes:
        return
    if train.is_unlabeled or val.is_unlabeled:
        # Each such file is a problem of its own.
        return
    pairs = zip(train.classes, val.classes, strict=False)
    difference = next(
        (f"class {i} is {a} in train and {b} in val" for i, (a, b) in enumerate(pairs) if a != b),
        f"train has {len(train.classes)} classes, val {len(val.classes)}",
    )
    yield Problem(
        "dataset.val",
        f"has other classes than dataset.train: {difference}",
        "convert val with --classes and the file of train, or both from the same classes",
    )


def _check_cache(dataset: Dataset, facts: Mapping[str, DatasetFacts]) -> Iterator[Problem]:
    cache = dataset.cache
    if cache is None:
        return
    existing = next(path for path in (cache.path, *cache.path.parents) if path.exists())
    if not existing.is_dir():
        yield Problem("dataset.cache.path", f"{existing} is a file", "give a folder")
    sizes = {each.fingerprint: each.num_bytes for each in facts.values()}
    if cache.limit_bytes is not None and cache.limit_bytes < sum(sizes.values()):
        yield Problem(
            "dataset.cache.limit_bytes",
            f"is {cache.limit_bytes:,} but both files have {sum(sizes.values()):,} bytes",
            "make it larger, or leave it out",
        )


def _problem(where: str, message: str) -> Problem:
    text, _, remedy = message.rpartition("; ")
    return Problem(where, text, remedy)


def _check_labels(
    where: str, location: str, facts: DatasetFacts, num_classes: int
) -> Iterator[Problem]:
    if facts.is_unlabeled:
        remedy = "convert labeled images"
        if where == "dataset.train":
            remedy = "set dataset.unlabeled to true, to learn from the teacher alone, or " + remedy
        yield Problem(where, f"{location} has images without labels", remedy)
    low, high = facts.lowest_label, facts.highest_label
    if low < 0 or high >= num_classes:
        yield Problem(
            where,
            f"{location} has labels {low} to {high}",
            f"dataset.num_classes is {num_classes}: it must be at least {high + 1}",
        )


def _check_train_images(
    train: DatasetFacts,
    dataset: Dataset,
    augmentation: Augmentation | None,
    training: Training | None,
) -> Iterator[Problem]:
    num_images, held_out = train.num_images, dataset.held_out
    if held_out is not None and not dataset.unlabeled:
        num_images -= held_out.num_images
        try:
            num_held_out_per_class(np.array(train.num_per_label), held_out.num_images)
        except ValueError as error:
            yield _problem("dataset.held_out.num_images", str(error))
            return
    if training and num_images < training.global_batch_size:
        yield Problem(
            "training.global_batch_size",
            f"is {training.global_batch_size} but {dataset.train} has {num_images} images to "
            "train on",
            "make it no larger than the training set",
        )
    if augmentation is None:
        return
    size, low, high = augmentation.size, train.min_side, train.max_side
    if augmentation.crop == "pad_and_crop" and (low, high) != (size, size):
        span = str(low) if low == high else f"{low} to {high}"
        yield Problem(
            "augmentation.size",
            f"is {size} but {dataset.train} has images of {span} pixels",
            "pad_and_crop needs images of exactly that size; use it or random_resized",
        )
