"""Datasets: a .beton's manifest, and its tables and images."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
from fuzz.json_mutators import mutate_json
from fuzz.mutators import IntegerField, mutate_bytes, mutate_integer
from fuzz.outcomes import Call
from fuzz.small_datasets import NUM_CLASSES, SIZE, fitting_manifest, write_dataset
from fuzz.target import Target
from support.spec_contents import spec_content

from data_pipeline import decoders
from data_pipeline.batches import Crop, UndecodableSampleError, center_crop
from data_pipeline.beton import (
    ALLOCATION,
    DIGEST,
    DIGEST_MAGIC,
    FIELD,
    HEADER,
    SAMPLE,
    BetonError,
    open_beton,
)
from data_pipeline.facts import dataset_facts
from data_pipeline.loader import ImageLoader
from data_pipeline.manifest import manifest_path
from data_pipeline.staging import StagingError, read_manifest_at
from data_pipeline.verify import check_quickly
from jobs import verify
from service.spec.errors import BadInputError
from service.spec.loading import parse_job

NUM_IMAGES, NUM_JPEGS = 6, 4
CROPS = (
    center_crop(18, SIZE),
    Crop(decoders.RANDOM_RESIZED_CROP, 12, (0.08, 1.0), (0.75, 1.33), 0.5),
    Crop(decoders.PAD_AND_CROP, SIZE, flip_probability=0.5, padding=2),
)


def manifest_target(folder: Path) -> Target:
    """The manifest beside an intact .beton."""
    path = folder / "train.beton"
    write_dataset(path, 64, NUM_JPEGS)
    location = manifest_path(path)
    names = (str(path), path.name)

    def calls(data: bytes) -> Iterator[Call]:
        location.write_bytes(data)
        yield Call("dataset_facts", partial(dataset_facts, str(path)), (BetonError,), names)
        yield Call("check_quickly", partial(check_quickly, path), (BetonError,), names)
        yield Call("read_manifest_at", partial(read_manifest_at, str(path)), (StagingError,), names)
        yield _job_call(folder, path)
        yield Call("jobs/verify.py", partial(verify.main, [str(path), "--threads", "1"]), (), ())

    return Target(folder, [location.read_bytes()], mutate_json, calls)


def beton_target(folder: Path) -> Target:
    """A .beton: alone, and with a manifest that fits its tables."""
    path = folder / "train.beton"
    seeds = []
    for num_jpegs in (0, NUM_JPEGS):
        write_dataset(path, NUM_IMAGES, num_jpegs)
        seeds.append(path.read_bytes())
    names = (str(path), path.name)
    for crop in CROPS:
        # Compiles code, whose cache is in another folder.
        _load(path, crop)

    def calls(data: bytes) -> Iterator[Call]:
        path.write_bytes(data)
        manifest_path(path).unlink(missing_ok=True)
        yield Call("open_beton", partial(open_beton, path), (BetonError,), names)
        yield Call("jobs/verify.py", partial(verify.main, [str(path), "--threads", "1"]), (), ())
        yield _job_call(folder, path)
        for crop in CROPS:
            yield Call(
                f"ImageLoader, crop {crop.kind}",
                partial(_load, path, crop),
                (BetonError, UndecodableSampleError),
                names,
            )
        try:
            manifest = fitting_manifest(open_beton(path))
        except Exception:
            # Counted above.
            return
        manifest_path(path).write_text(json.dumps(manifest))
        yield Call("check_quickly", partial(check_quickly, path), (BetonError,), names)
        yield Call("jobs/verify.py", partial(verify.main, [str(path), "--threads", "1"]), (), ())

    return Target(folder, seeds, _mutate_beton, calls)


def _job_call(folder: Path, path: Path) -> Call:
    """A spec that names the dataset, which rules compare with its other fields."""
    content = spec_content(folder, folder / "runs")
    content["dataset"] |= {"train": str(path), "val": str(path), "num_classes": NUM_CLASSES}
    content["training"] = {"global_batch_size": 2, "micro_batch_size": 1}
    names = (str(path), "dataset.", "augmentation.", "evaluation.", "training.")
    return Call("parse_job", partial(parse_job, content), (BadInputError,), names)


def _load(path: Path, crop: Crop) -> None:
    """Decode all images of a file, as training and evaluation do."""
    file = open_beton(path)
    batches = np.array_split(np.arange(file.num_samples), 2)
    with ImageLoader(file, seed=1, num_threads=1) as loader:
        for batch in loader.batches([batch for batch in batches if len(batch)], crop):
            assert batch.images.shape[1:] == (crop.size, crop.size, 3)


def _mutate_beton(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Numbers of the tables, with values at their limits; less often, any bytes."""
    if random.random() < 0.25:
        return mutate_bytes(random, data, others)
    tables = _tables(data)
    for _ in range(random.randint(1, 2)):
        data = mutate_integer(random, data, random.choice(tables))
    return data


def _tables(data: bytes) -> list[list[IntegerField]]:
    """The integers of each table of a file."""
    allocations = int(np.frombuffer(data, HEADER, 1)["alloc_table_ptr"][0])
    samples = HEADER.itemsize + 2 * FIELD.itemsize
    digests = samples + NUM_IMAGES * SAMPLE.itemsize + len(DIGEST_MAGIC)
    return [
        _integers(HEADER, 0, 1),
        _integers(FIELD, HEADER.itemsize, 2),
        _integers(SAMPLE, samples, NUM_IMAGES),
        _integers(DIGEST, digests, NUM_IMAGES),
        _integers(ALLOCATION, allocations, NUM_IMAGES),
    ]


def _integers(record: np.dtype, start: int, count: int) -> list[IntegerField]:
    offsets = [start + index * record.itemsize for index in range(count)]
    return [IntegerField(start + at, size) for start in offsets for at, size in _layout(record)]


def _layout(record: np.dtype) -> Iterator[tuple[int, int]]:
    """Position and size in bytes of the integers in a record."""
    for field, offset, *_ in (record.fields or {}).values():
        if field.fields:
            yield from ((offset + inner, size) for inner, size in _layout(field))
        elif not field.shape:
            yield offset, field.itemsize
