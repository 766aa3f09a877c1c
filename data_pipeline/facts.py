"""Facts about a dataset, from its tables or its manifest, before anything is trained."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.beton import open_beton
from data_pipeline.files import is_remote
from data_pipeline.manifest import FORMAT, UNLABELED_CLASS, read_manifest
from data_pipeline.verify import check_quickly, check_tables


class DatasetFacts(NamedTuple):
    """What a dataset contains.

    ``min_side`` and ``max_side``: minimum and maximum over all heights and widths;
    ``typical_short_side``: median of the shorter side; all in pixels. ``num_per_label``: images of
    each label that has any, by ascending label. ``classes`` and ``normalization`` (mean and std per
    channel, on the scale 0 to 1) are the manifest's, None for a file without one;
    ``normalization`` is also None if a channel is constant.
    """

    fingerprint: str
    num_images: int
    lowest_label: int
    highest_label: int
    min_side: int
    max_side: int
    typical_short_side: int
    num_bytes: int
    num_per_label: tuple[int, ...]
    classes: tuple[str, ...] | None
    normalization: dict[str, list[float]] | None

    @property
    def is_unlabeled(self) -> bool:
        """Whether the file was converted without labels."""
        return self.classes == (UNLABELED_CLASS,)


def dataset_facts(location: str, *, checks_samples: bool = True) -> DatasetFacts:
    """Read a dataset's tables, or, in an object store, its manifest.

    ``checks_samples``: also compare some samples of a local file with their digests.

    Raises:
        BetonError: a file that is missing, damaged or not what its manifest describes.
        OSError: a local file cannot be read.
        StagingError: an object store that has no such dataset, or does not answer.
    """
    if is_remote(location):
        return _remote_facts(location)
    return _local_facts(Path(location), checks_samples)


def _local_facts(path: Path, checks_samples: bool) -> DatasetFacts:
    manifest = read_manifest(path)
    if manifest is None:
        file = open_beton(path)
    else:
        file = check_quickly(path) if checks_samples else check_tables(path)
    sizes = file.image_sizes
    return DatasetFacts(
        file.fingerprint,
        file.num_samples,
        int(file.labels.min()),
        int(file.labels.max()),
        int(sizes.min()),
        int(sizes.max()),
        int(np.median(sizes.min(axis=1))),
        path.stat().st_size,
        tuple(np.unique(file.labels, return_counts=True)[1].tolist()),
        tuple(manifest["classes"]) if manifest is not None else None,
        _normalization(manifest) if manifest is not None else None,
    )


def _remote_facts(location: str) -> DatasetFacts:
    # Imported here: only this needs the object stores' libraries, which are slow to import.
    from data_pipeline.staging import StagingError, read_manifest_at

    manifest = read_manifest_at(location)
    try:
        if manifest["format"] != FORMAT:
            raise ValueError("another format")
        sides = [*manifest["height_px"], *manifest["width_px"]]
        labels = np.flatnonzero(manifest["num_per_class"])
        return DatasetFacts(
            manifest["fingerprint"],
            manifest["num_samples"],
            int(labels.min()),
            int(labels.max()),
            min(sides),
            max(sides),
            manifest["short_side_px"][1],
            manifest["num_bytes"],
            tuple(count for count in manifest["num_per_class"] if count),
            tuple(manifest["classes"]),
            _normalization(manifest),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise StagingError(
            f"{location}.json is not a manifest of this version; convert the dataset again and "
            "upload both files"
        ) from error


def _normalization(manifest: dict[str, Any]) -> dict[str, list[float]] | None:
    """Mean and std of the pixels; None if a channel is constant, which cannot be normalized."""
    pixels = manifest.get("pixels", {})
    if not all(deviation > 0 for deviation in pixels.get("std", [0])):
        return None
    return {"mean": pixels["mean"], "std": pixels["std"]}
