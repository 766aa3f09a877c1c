"""Converts a source to .beton files with their manifests."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data_pipeline.beton import open_beton
from data_pipeline.encode import (
    EncodedImage,
    Encoding,
    UnreadableImageError,
    encode_image,
    pixel_sums,
)
from data_pipeline.manifest import FORMAT, write_manifest
from data_pipeline.selection import Selection, select
from data_pipeline.sources import Source
from data_pipeline.sources.image_labels import human_names
from data_pipeline.text import printable
from data_pipeline.writer import BetonWriter

IMAGES_PER_CHUNK = 16
NUM_CHUNKS_AHEAD_PER_WORKER = 8
# Mean and std are measured on some images only, at least MIN_MEASURED or one in MEASURED_SHARE:
# decoding takes longer than the conversion itself.
MIN_MEASURED = 256
MEASURED_SHARE = 32


class _Item(NamedTuple):
    """Result of one image: encoded, or its fault; ``sums`` [2, 3] if its pixels were measured."""

    image: EncodedImage | None
    fault: str
    sums: NDArray[np.uint64] | None


class Part(NamedTuple):
    """A file to write, and which of the source's samples it gets."""

    path: Path
    selection: Selection


def convert(
    source: Source,
    path: Path,
    encoding: Encoding,
    selection: Selection,
    num_workers: int,
    max_undecodable: int = 0,
) -> dict[str, Any]:
    """Write one file and its manifest as ``convert_parts`` does; returns the manifest."""
    part = Part(path, selection)
    return convert_parts(source, [part], encoding, num_workers, max_undecodable)[0]


def convert_parts(
    source: Source,
    parts: Sequence[Part],
    encoding: Encoding,
    num_workers: int,
    max_undecodable: int = 0,
    *,
    overwrite: bool = True,
) -> list[dict[str, Any]]:
    """Write each part's ``path`` and its manifest ``path.json``; returns the manifests.

    Equal input gives equal bytes, whatever the number of workers. Up to ``max_undecodable`` images
    of each part that cannot be decoded are left out, and listed in the manifest. The files appear
    when all are complete; after an error, each ``path`` is as it was before.

    Raises:
        UnreadableImageError: more images than that cannot be decoded, or none can.
        SourceError: a source that changed since it was opened.
        ValueError: a selection that the source cannot satisfy, an image larger than a page,
            another conversion to the same path, or, without ``overwrite``, a file that exists.
        OSError: the storage fails.
    """
    chosen = [select(source.labels, source.keys, source.classes, part.selection) for part in parts]
    with ExitStack() as stack:
        writers = [
            stack.enter_context(BetonWriter(part.path, len(indices)))
            for part, indices in zip(parts, chosen, strict=True)
        ]
        if not overwrite:
            # Now that no other conversion can write to them.
            refuse_existing([part.path for part in parts])
        manifests = [
            _write(source, writer, part, indices, encoding, num_workers, max_undecodable)
            for writer, part, indices in zip(writers, parts, chosen, strict=True)
        ]
        # Written before the files are renamed, so that a file always has its manifest. An older
        # file of that name does not match it and is rejected until it is replaced.
        for part, manifest in zip(parts, manifests, strict=True):
            write_manifest(part.path, manifest)
    return manifests


def refuse_existing(paths: Iterable[Path]) -> None:
    """Check that a conversion would replace none of its output paths.

    Raises:
        ValueError: one of them exists.
    """
    for path in paths:
        if path.exists() or path.is_symlink():
            raise ValueError(f"{path} exists; give another path, or --overwrite to replace it")


def _write(
    source: Source,
    writer: BetonWriter,
    part: Part,
    indices: NDArray[np.int64],
    encoding: Encoding,
    num_workers: int,
    max_undecodable: int,
) -> dict[str, Any]:
    """Fill the part's file up to its renaming; returns its manifest."""
    left_out: list[str] = []
    statistics = _PixelStatistics()
    items = _encode_all(source, indices, encoding, num_workers)
    bar = tqdm(items, part.path.name, len(indices), unit="img", mininterval=1, smoothing=0.05)
    for index, item in zip(indices, bar, strict=True):
        if item.image is None:
            # A name need not be UTF-8, which the manifest is.
            left_out.append(printable(item.fault))
            if len(left_out) > max_undecodable:
                raise UnreadableImageError("\n".join(left_out))
            continue
        writer.append(item.image, int(source.labels[index]))
        statistics.add(item)
    if len(left_out) == len(indices):
        raise UnreadableImageError("no image can be decoded; give another source")
    writer.complete()
    manifest = _manifest(source, writer.partial_path, encoding, part.selection)
    return manifest | {"pixels": statistics.as_dict(), "left_out": left_out}


class _PixelStatistics:
    """Mean and std of the pixels of the measured images."""

    def __init__(self) -> None:
        self._sums = np.zeros((2, 3), dtype=object)
        self._num_pixels = 0
        self._num_images = 0

    def add(self, item: _Item) -> None:
        """Add an image, if it was measured."""
        if item.sums is None or item.image is None:
            return
        self._sums += item.sums.astype(object)
        self._num_pixels += item.image.width * item.image.height
        self._num_images += 1

    def as_dict(self) -> dict[str, object]:
        """Mean and std per channel on the scale 0 to 1, and the number of measured images."""
        values, squares = self._sums
        num_pixels = max(1, self._num_pixels)
        # Of Python's integers, so that the variance of equal pixels is 0 and never less.
        variances = (squares * num_pixels - values**2) / num_pixels**2
        return {
            "mean": [round(float(value) / num_pixels / 255, 5) for value in values],
            "std": [round(math.sqrt(variance) / 255, 5) for variance in variances],
            "num_images": self._num_images,
        }


def _encode_all(
    source: Source, indices: NDArray[np.int64], encoding: Encoding, num_workers: int
) -> Iterator[_Item]:
    """Encode the samples ``indices``, in their order.

    Reading, hashing, decoding and encoding release the GIL, so threads suffice; their results need
    not be copied between processes.
    """
    is_measured = np.zeros(len(indices), dtype=bool)
    num_measured = min(len(indices), max(MIN_MEASURED, len(indices) // MEASURED_SHARE))
    is_measured[np.linspace(0, len(indices) - 1, num_measured).astype(np.int64)] = True

    def encode_chunk(start: int) -> list[_Item]:
        chunk = slice(start, start + IMAGES_PER_CHUNK)
        pairs = zip(indices[chunk].tolist(), is_measured[chunk].tolist(), strict=True)
        return [_encode_one(source, index, encoding, measured) for index, measured in pairs]

    # Bounded, as a dataset may not fit into memory.
    pending: deque[Future[list[_Item]]] = deque()
    with ThreadPoolExecutor(num_workers, thread_name_prefix="encode") as pool:
        try:
            for start in range(0, len(indices), IMAGES_PER_CHUNK):
                pending.append(pool.submit(encode_chunk, start))
                if len(pending) > NUM_CHUNKS_AHEAD_PER_WORKER * num_workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _encode_one(source: Source, index: int, encoding: Encoding, is_measured: bool) -> _Item:
    try:
        image = encode_image(source.read(index), encoding)
    except UnreadableImageError as error:
        return _Item(None, str(error), None)
    except OSError as error:
        fault = f"{error.filename} cannot be read ({error.strerror}); replace or remove the file"
        return _Item(None, fault, None)
    return _Item(image, "", pixel_sums(image) if is_measured else None)


def _manifest(
    source: Source, path: Path, encoding: Encoding, selection: Selection
) -> dict[str, Any]:
    file = open_beton(path)
    sizes = file.image_sizes
    return {
        "format": FORMAT,
        "fingerprint": file.fingerprint,
        "num_samples": file.num_samples,
        "num_bytes": path.stat().st_size,
        "classes": list(source.classes),
        "class_names": human_names(source.classes),
        "num_per_class": np.bincount(file.labels, minlength=len(source.classes)).tolist(),
        "height_px": [int(sizes[:, 0].min()), int(sizes[:, 0].max())],
        "width_px": [int(sizes[:, 1].min()), int(sizes[:, 1].max())],
        "short_side_px": np.percentile(sizes.min(axis=1), [0, 50, 100]).astype(int).tolist(),
        "encoding": encoding._asdict(),
        "selection": asdict(selection),
    }
