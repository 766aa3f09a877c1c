"""Checks that a .beton is intact: quickly (size, tables, some samples) or byte for byte."""

import errno
import os
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.beton import (
    ALLOCATION,
    DIGEST,
    DIGEST_MAGIC,
    FIELD,
    HEADER,
    BetonError,
    BetonFile,
    digest,
    open_beton,
)
from data_pipeline.manifest import manifest_path, read_manifest

NUM_QUICKLY_CHECKED = 64
SAMPLES_PER_CHUNK = 256
GAP_CHUNK_BYTES = 1 << 24


class Damage(NamedTuple):
    """One fault of a file; ``sample`` is its index, None for bytes outside the samples."""

    sample: int | None
    fault: str


def check_quickly(path: Path) -> BetonFile:
    """Compare size and tables with the manifest, and 64 samples with their digests.

    The samples are spread over the file. Returns the file's tables.

    Raises:
        BetonError: a file that is missing, damaged, without a manifest, or not the one that its
            manifest describes.
        OSError: a sample cannot be read.
    """
    file = check_tables(path)
    if file.digests is not None:
        chosen = np.linspace(0, file.num_samples - 1, NUM_QUICKLY_CHECKED).astype(np.int64)
        _raise_first(path, _compare(file, np.unique(chosen)))
    return file


def check_tables(path: Path) -> BetonFile:
    """Compare size and tables with the manifest, but no sample; returns the file's tables.

    Raises:
        BetonError: a file that is missing, without a manifest, or not the one that its manifest
            describes.
    """
    file, manifest = open_beton(path), read_manifest(path)
    if manifest is None:
        raise BetonError(f"{path} has no manifest {manifest_path(path).name}; convert it again")
    num_bytes = path.stat().st_size
    if num_bytes != manifest["num_bytes"]:
        raise BetonError(
            f"{path} has {num_bytes:,} bytes, its manifest says {manifest['num_bytes']:,}; copy or "
            "convert it again"
        )
    if file.fingerprint != manifest["fingerprint"] or not _has_counts(
        file, manifest["num_per_class"]
    ):
        raise BetonError(
            f"{path} is damaged or not the file that its manifest describes; copy or convert both "
            "again"
        )
    return file


def _has_counts(file: BetonFile, num_per_class: list[int]) -> bool:
    """Whether each class has the number of samples that the manifest states."""
    counts = np.bincount(file.labels, minlength=len(num_per_class))
    return counts.tolist() == num_per_class


def check_samples(path: Path, num_threads: int) -> None:
    """Compare every sample with its digest, and check the bytes between the samples.

    Raises:
        BetonError: a file without digests, or its first fault.
        OSError: the file cannot be read.
    """
    file = open_beton(path)
    if file.digests is None:
        raise BetonError(f"{path} has no digests; convert it with jobs/convert.py")
    # Its threads end here: if an error kept the generator, Python could end it, and wait for them,
    # while another thread starts and holds the locks that their ending needs.
    with closing(find_damage(file, num_threads, decode=False)) as damages:
        _raise_first(path, damages)


def find_damage(
    file: BetonFile, num_threads: int, *, decode: bool = True
) -> Generator[Damage, None, None]:
    """Yield all faults of a file's content, in order; reads the complete file.

    Samples are compared with their digests, if the file has them, and, with ``decode``, decoded.
    ``num_threads`` threads read and decode.

    Raises:
        OSError: the file cannot be read.
    """
    starts = range(SAMPLES_PER_CHUNK, file.num_samples, SAMPLES_PER_CHUNK)
    chunks = np.split(np.arange(file.num_samples), starts)
    with ThreadPoolExecutor(num_threads) as pool:
        for found in pool.map(lambda chunk: _examine(file, chunk, decode), chunks):
            yield from found
    if file.digests is not None:
        yield from _find_dirty_gaps(file)


def _raise_first(path: Path, damages: Iterator[Damage]) -> None:
    for damage in damages:
        where = "" if damage.sample is None else f"sample {damage.sample} "
        raise BetonError(f"{path}: {where}{damage.fault}; copy or convert it again")


def _examine(file: BetonFile, indices: NDArray[np.int64], decode: bool) -> list[Damage]:
    damages = list(_compare(file, indices)) if file.digests is not None else []
    if decode:
        bad = {damage.sample for damage in damages}
        damages += _decode(file, np.array([i for i in indices if i not in bad], dtype=np.int64))
    return damages


def _compare(file: BetonFile, indices: NDArray[np.int64]) -> Iterator[Damage]:
    assert file.digests is not None
    digests = file.digests["stored"]
    with file.path.open("rb") as stream:
        for index, (_, _, _, position, size) in zip(indices, file.storage(indices), strict=True):
            stream.seek(position)
            if digest(stream.read(size)) != digests[index]:
                yield Damage(int(index), "is not what was converted: its bytes have changed")


def _decode(file: BetonFile, indices: NDArray[np.int64]) -> Iterator[Damage]:
    # Imported here: the quick check needs no decoder.
    from data_pipeline.encode import EncodedImage, pixel_sums

    with file.path.open("rb") as stream:
        for index, (mode, height, width, position, size) in zip(
            indices, file.storage(indices), strict=True
        ):
            stream.seek(position)
            try:
                pixel_sums(EncodedImage(mode, width, height, stream.read(size), 0, 0))
            except ValueError as error:
                yield Damage(int(index), f"cannot be decoded: {error}")


def _find_dirty_gaps(file: BetonFile) -> Iterator[Damage]:
    """Nonzero bytes between tables and samples; a file written here has zeros there."""
    storage = file.storage(np.arange(file.num_samples))
    tables_end = HEADER.itemsize + 2 * FIELD.itemsize + file.samples.nbytes
    tables_end += len(DIGEST_MAGIC) + DIGEST.itemsize * file.num_samples
    order = np.argsort(storage[:, 3])
    starts = np.concatenate([[tables_end], (storage[:, 3] + storage[:, 4])[order]])
    with file.path.open("rb", buffering=0) as stream:
        table_start = int(np.frombuffer(stream.read(HEADER.itemsize), HEADER)["alloc_table_ptr"][0])
        ends = np.concatenate([storage[order, 3], [table_start]])
        for gap in np.flatnonzero(ends > starts):
            position = _first_nonzero(stream.fileno(), int(starts[gap]), int(ends[gap]))
            if position is not None:
                yield Damage(None, f"byte {position:,}, between samples, has changed")
        table_end = table_start + ALLOCATION.itemsize * file.num_samples
        num_after = os.fstat(stream.fileno()).st_size - table_end
        if num_after > 0:
            yield Damage(None, f"{num_after:,} bytes follow the end of the file")


def _first_nonzero(descriptor: int, start: int, end: int) -> int | None:
    """Position of the first byte that is not zero; holes of a sparse file are not read."""
    while start < end:
        try:
            start = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                # Nothing but a hole up to the end of the file.
                return None
            raise
        piece = np.frombuffer(
            os.pread(descriptor, max(0, min(GAP_CHUNK_BYTES, end - start)), start), np.uint8
        )
        if piece.any():
            return start + int(np.flatnonzero(piece)[0])
        if len(piece) == 0:
            return None
        start += len(piece)
    return None
