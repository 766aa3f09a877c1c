"""CIFAR-10 and CIFAR-100 as torchvision unpacks them: pickled batches in a folder."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.sources.array_pickle import load_arrays
from data_pipeline.sources.skipped import log_others
from data_pipeline.sources.source import SourceError, SourceSample, pixel_keys

SIDE = 32


class Layout(NamedTuple):
    """Names of the files of one of the two datasets, and of the entries in them."""

    folder: str
    meta: str
    splits: dict[str, tuple[str, ...]]
    labels: str
    names: str


LAYOUTS = (
    Layout(
        "cifar-10-batches-py",
        "batches.meta",
        {
            "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
            "test": ("test_batch",),
        },
        "labels",
        "label_names",
    ),
    Layout(
        "cifar-100-python",
        "meta",
        {"train": ("train",), "test": ("test",)},
        "fine_labels",
        "fine_label_names",
    ),
)


class CifarFolder(NamedTuple):
    """A folder and the layout it was recognized by."""

    path: Path
    layout: Layout


def find_cifar(path: Path) -> CifarFolder | None:
    """CIFAR in this folder, or in a subfolder of its usual name; None if there is none.

    Raises:
        SourceError: the folder contains CIFAR more than once.
    """
    found = [
        CifarFolder(folder, layout)
        for layout in LAYOUTS
        for folder in (path, path / layout.folder)
        # Other folders may also have a file named "meta".
        if (folder / layout.meta).is_file()
        and any((folder / files[0]).is_file() for files in layout.splits.values())
    ]
    if len(found) > 1:
        raise SourceError(
            f"{path} has CIFAR more than once; give {' or '.join(str(f.path) for f in found)}"
        )
    return found[0] if found else None


@dataclass(frozen=True)
class CifarImages:
    """``images`` in memory, [N, 3, 32, 32] RGB; ``labels`` [N]."""

    classes: Sequence[str]
    labels: NDArray[np.int64]
    path: Path
    images: NDArray[np.uint8]

    @staticmethod
    def open(folder: CifarFolder, split: str) -> "CifarImages":
        """Read all batches of a split, "train" or "test".

        Raises:
            SourceError: a file that is missing, damaged or not a batch of CIFAR.
        """
        path, layout = folder
        classes = _load(path / layout.meta).get(layout.names)
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise SourceError(
                f"{path / layout.meta} has no {layout.names}; extract the archive again"
            )
        batches = [
            _batch(path / name, layout.labels, len(classes)) for name in layout.splits[split]
        ]
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        log_others(path, {layout.meta, *itertools.chain(*layout.splits.values())})
        return CifarImages(classes, labels, path, images)

    @property
    def keys(self) -> NDArray[np.uint64]:
        """Digests of the pixels, [N]."""
        return pixel_keys(self.images)

    def read(self, index: int) -> SourceSample:
        """The image's pixels, [32, 32, 3]."""
        pixels = np.ascontiguousarray(self.images[index].transpose(1, 2, 0))
        return SourceSample(f"{self.path}[{index}]", pixels)


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SourceError(f"{path} does not exist; extract the archive again")
    content = load_arrays(path)
    if not isinstance(content, dict):
        raise SourceError(f"{path} is not a batch of CIFAR; extract the archive again")
    return content


def _batch(
    path: Path, labels_key: str, num_classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    content = _load(path)
    data, labels = content.get("data"), content.get(labels_key)
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.shape[1:] != (3 * SIDE * SIDE,)
        or not isinstance(labels, list)
        or not len(labels) == len(data) > 0
        or not all(isinstance(label, int) and 0 <= label < num_classes for label in labels)
    ):
        raise SourceError(
            f"{path} lacks images [N, {3 * SIDE * SIDE}] or {labels_key} for each; "
            "extract the archive again"
        )
    return data.reshape(-1, 3, SIDE, SIDE), np.array(labels, np.int64)
