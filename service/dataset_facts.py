"""What can be told of a dataset before anything is trained, wherever it lies."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.beton import open_beton
from data_pipeline.manifest import read_manifest
from data_pipeline.verify import check_quickly


class DatasetFacts(NamedTuple):
    """Sizes in pixels: of any side the least and the greatest, of the shorter side the median."""

    identity: str
    num_images: int
    lowest_label: int
    highest_label: int
    least_side: int
    greatest_side: int
    typical_short_side: int
    is_verified: bool


def is_remote(location: str) -> bool:
    """Whether a location is in an object store."""
    return location.startswith(("s3://", "gs://"))


def dataset_facts(location: str) -> DatasetFacts:
    """Read a dataset's tables, or, in an object store, its manifest.

    Raises:
        BetonError: a file that is missing, damaged or not what its manifest describes.
        StagingError: an object store that has no such dataset, or does not answer.
    """
    return _remote_facts(location) if is_remote(location) else _local_facts(Path(location))


def _local_facts(path: Path) -> DatasetFacts:
    file = open_beton(path)
    has_manifest = read_manifest(path) is not None
    if has_manifest:
        check_quickly(path)
    sizes = file.image_sizes
    return DatasetFacts(
        file.identity,
        file.num_samples,
        int(file.labels.min()),
        int(file.labels.max()),
        int(sizes.min()),
        int(sizes.max()),
        int(np.median(sizes.min(axis=1))),
        has_manifest,
    )


def _remote_facts(location: str) -> DatasetFacts:
    # Imported here: only this needs the object stores' libraries, which take their time.
    from data_pipeline.staging import StagingError, read_manifest_at

    manifest = read_manifest_at(location)
    try:
        sides = [*manifest["height_px"], *manifest["width_px"]]
        labels = np.flatnonzero(manifest["num_per_class"])
        return DatasetFacts(
            manifest["identity"],
            manifest["num_samples"],
            int(labels.min()),
            int(labels.max()),
            min(sides),
            max(sides),
            manifest["short_side_px"][1],
            True,
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise StagingError(
            f"{location}.json is no manifest of this version; convert the dataset again and upload "
            "both files"
        ) from error
