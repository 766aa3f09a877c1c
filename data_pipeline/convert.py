"""Source to .beton with a manifest beside it."""

import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.beton import open_beton
from data_pipeline.encode import EncodedImage, Encoding, encode_image
from data_pipeline.sources import Source, SourceError
from data_pipeline.writer import BetonWriter

CHUNK = 64
PROGRESS_INTERVAL_S = 2.0


@dataclass(frozen=True)
class Selection:
    """Which samples of a source are taken.

    ``per_class``: so many of each class, drawn with ``seed``; None takes all. The order in the file
    is a shuffle drawn with ``seed``.
    """

    per_class: int | None = None
    seed: int = 0


def convert(
    source: Source, path: Path, encoding: Encoding, selection: Selection, num_processes: int
) -> dict[str, Any]:
    """Write ``path`` and its manifest ``path.json``; returns the manifest.

    Equal input gives equal bytes, whatever the number of processes.

    Raises:
        UnreadableImageError: the first image that cannot be decoded; nothing is left at ``path``.
        SourceError: a selection that the source cannot satisfy.
    """
    indices = select(source, selection)
    with BetonWriter(path, len(indices)) as writer:
        encoded = _encode_all(source, indices, encoding, num_processes)
        for index, image in zip(indices, _with_progress(encoded, len(indices)), strict=True):
            writer.append(image, int(source.labels[index]))
    manifest = _manifest(source, path, encoding, selection)
    partial_path = manifest_path(path).with_suffix(".partial")
    partial_path.write_text(json.dumps(manifest, indent=1) + "\n")
    partial_path.replace(manifest_path(path))
    return manifest


def select(source: Source, selection: Selection) -> NDArray[np.int64]:
    """Indices of the chosen samples in the order in which they are written.

    Raises:
        SourceError: a class with fewer samples than asked for.
    """
    shuffled = np.random.default_rng(selection.seed).permutation(len(source.labels))
    if selection.per_class is None:
        return shuffled
    chosen = np.zeros(len(shuffled), dtype=bool)
    for label, name in enumerate(source.classes):
        of_class = np.flatnonzero(source.labels[shuffled] == label)
        if len(of_class) < selection.per_class:
            raise SourceError(
                f"class {name} has {len(of_class)} images, fewer than the {selection.per_class} "
                "asked for; ask for less per class"
            )
        chosen[of_class[: selection.per_class]] = True
    return shuffled[chosen]


def manifest_path(path: Path) -> Path:
    """Where a file's manifest stands."""
    return path.with_name(path.name + ".json")


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a .beton, None if it has none."""
    try:
        manifest: dict[str, Any] = json.loads(manifest_path(path).read_text())
    except FileNotFoundError:
        return None
    return manifest


def _encode_all(
    source: Source, indices: NDArray[np.int64], encoding: Encoding, num_processes: int
) -> Iterator[EncodedImage]:
    """Encoded images in the order of ``indices``."""
    chunks = [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
    if num_processes == 1:
        for chunk in chunks:
            yield from (encode_image(source.read(int(index)), encoding) for index in chunk)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        num_processes, context, initializer=_set_source, initargs=(source, encoding)
    ) as pool:
        try:
            for images in pool.map(_encode_chunk, chunks):
                yield from images
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_process_source: tuple[Source, Encoding]


def _set_source(source: Source, encoding: Encoding) -> None:
    """Give a worker process its source once instead of with every chunk."""
    global _process_source
    _process_source = (source, encoding)


def _encode_chunk(indices: NDArray[np.int64]) -> list[EncodedImage]:
    source, encoding = _process_source
    return [encode_image(source.read(int(index)), encoding) for index in indices]


def _with_progress(images: Iterator[EncodedImage], total: int) -> Iterator[EncodedImage]:
    start_s = last_s = time.monotonic()
    for count, image in enumerate(images, start=1):
        yield image
        now_s = time.monotonic()
        if now_s - last_s > PROGRESS_INTERVAL_S or count == total:
            last_s = now_s
            rate = count / max(now_s - start_s, 1e-9)
            eta_s = (total - count) / rate
            print(
                f"{count:,} of {total:,} images, {rate:,.0f} img/s, ETA {eta_s:.0f} s", flush=True
            )


def _manifest(
    source: Source, path: Path, encoding: Encoding, selection: Selection
) -> dict[str, Any]:
    file = open_beton(path)
    counts = np.bincount(file.labels, minlength=len(source.classes))
    sizes = file.image_sizes
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "format": 1,
        "sha256": digest,
        "num_samples": file.num_samples,
        "num_bytes": path.stat().st_size,
        "classes": list(source.classes),
        "num_per_class": counts.tolist(),
        "height_px": [int(sizes[:, 0].min()), int(sizes[:, 0].max())],
        "width_px": [int(sizes[:, 1].min()), int(sizes[:, 1].max())],
        "encoding": encoding._asdict(),
        "selection": asdict(selection),
    }
