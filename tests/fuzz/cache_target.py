"""A node's cache of datasets: the files that an earlier process may have left in an entry."""

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
from fuzz.json_mutators import mutate_json
from fuzz.mutators import mutate_bytes
from fuzz.outcomes import Call
from fuzz.small_datasets import write_dataset
from fuzz.target import Target
from support.staging_helpers import quiet

from data_pipeline.beton import open_beton
from data_pipeline.manifest import manifest_path
from data_pipeline.staging import Cache, StagingError, stage
from data_pipeline.staging.fetch import chunk_log_path

NUM_IMAGES, NUM_JPEGS = 6, 4


def cache_target(folder: Path) -> Target:
    """Each input as each file of the dataset's entry; what is staged must be the dataset."""
    source = folder / "share" / "train.beton"
    source.parent.mkdir()
    write_dataset(source, NUM_IMAGES, NUM_JPEGS)
    cache = Cache(folder / "cache")
    with stage(str(source), cache, report=quiet) as staged:
        path = staged.path
    partial_path = path.with_name(path.name + ".partial")
    log_path = chunk_log_path(partial_path)
    log = f"{source.stat().st_size} {32 << 20}\n0\n".encode()
    whole = {path: source.read_bytes(), manifest_path(path): manifest_path(path).read_bytes()}
    unfinished = {partial_path: source.read_bytes(), log_path: log}

    def calls(data: bytes) -> Iterator[Call]:
        for files in (whole, unfinished):
            for changed in files:
                shutil.rmtree(path.parent, ignore_errors=True)
                path.parent.mkdir()
                for file, content in files.items():
                    file.write_bytes(data if file is changed else content)
                check = partial(_check_stage, source, cache)
                yield Call(changed.name, check, (StagingError,), (str(source), str(cache.path)))

    return Target(folder, [*whole.values(), log], _mutate, calls)


def _check_stage(source: Path, cache: Cache) -> None:
    """Bytes between the images of a file in the cache are checked when it is copied only."""
    with stage(str(source), cache, report=quiet) as staged:
        content = staged.path.read_bytes()
    expected = source.read_bytes()
    assert len(content) == len(expected), "a file of another size is staged"
    file = open_beton(source)
    extents = file.storage(np.arange(file.num_samples))[:, 3:]
    for start, size in extents.tolist():
        part = slice(start, start + size)
        assert content[part] == expected[part], "other images are staged"


def _mutate(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    if data.startswith(b"{"):
        return mutate_json(random, data, others)
    return mutate_bytes(random, data, others)
