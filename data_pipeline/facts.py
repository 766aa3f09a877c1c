"""What can be told of a dataset before anything is trained, wherever it lies."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.beton import open_beton
from data_pipeline.manifest import read_manifest
from data_pipeline.verify import check_quickly, check_tables


class DatasetFacts(NamedTuple):
    """Sizes in pixels: of any side the least and the greatest, of the shorter side the median.

    ``num_per_label``: images of each label that has some, by rising label.
    ``classes`` are the manifest's, None where there is no manifest to check the file against.
    """

    fingerprint: str
    num_images: int
    lowest_label: int
    highest_label: int
    least_side: int
    greatest_side: int
    typical_short_side: int
    num_bytes: int
    num_per_label: tuple[int, ...]
    classes: tuple[str, ...] | None


def is_remote(location: str) -> bool:
    """Whether a location is in an object store."""
    return location.startswith(("s3://", "gs://"))


def dataset_facts(location: str, *, checks_samples: bool = True) -> DatasetFacts:
    """Read a dataset's tables, or, in an object store, its manifest.

    ``checks_samples``: compare some samples with their checksums, too.

    Raises:
        BetonError: a file that is missing, damaged or not what its manifest describes.
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
    )


def _remote_facts(location: str) -> DatasetFacts:
    # Imported here: only this needs the object stores' libraries, which take their time.
    from data_pipeline.staging import StagingError, read_manifest_at

    manifest = read_manifest_at(location)
    try:
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
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise StagingError(
            f"{location}.json is no manifest of this version; convert the dataset again and upload "
            "both files"
        ) from error
