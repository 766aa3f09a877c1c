"""Image files in folders: one folder per class."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from data_pipeline.sources.levels import check_level
from data_pipeline.sources.skipped import Skipped, is_junk
from data_pipeline.sources.source import (
    IMAGE_SUFFIXES,
    Names,
    SourceError,
    SourceSample,
    is_image,
    name_keys,
)


@dataclass(frozen=True)
class ImageFolder:
    """Image files below ``root``; ``names`` are their paths from there."""

    classes: Sequence[str]
    labels: NDArray[np.int64]
    keys: NDArray[np.uint64]
    root: Path
    names: Names

    @staticmethod
    def open(root: Path) -> "ImageFolder":
        """One folder per class with images anywhere below it; classes in alphabetical order.

        Hidden files are skipped. The class folders may be links; links to folders below them are
        not followed.

        Raises:
            SourceError: no class folders, a class folder without images, or an image outside the
                class folders.
        """
        entries = visible_entries(root)
        folders = [entry for entry in entries if entry.is_dir()]
        strays = [entry for entry in entries if is_image(entry.name) and not entry.is_dir()]
        if not folders:
            raise SourceError(
                f"{root} has no images in class folders; give a folder of <class>/<image> files"
            )
        if strays:
            raise SourceError(f"{strays[0]} is outside the class folders; move or remove it")
        check_level(root, [folder.name for folder in folders])
        skipped = Skipped()
        skipped.add_others(root, {folder.name for folder in folders})
        names: list[str] = []
        counts: list[int] = []
        for folder in folders:
            images = images_below(folder, skipped)
            if not images:
                raise SourceError(
                    f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)}); if it is no class, "
                    "move it elsewhere"
                )
            names += [f"{folder.name}/{image}" for image in images]
            counts.append(len(images))
        skipped.log(root)
        labels = np.repeat(np.arange(len(folders), dtype=np.int64), counts)
        classes = [folder.name for folder in folders]
        return ImageFolder(classes, labels, name_keys(names), root, Names.of(names))

    def read(self, index: int) -> SourceSample:
        """The file's bytes, unchanged."""
        path = self.root / self.names[index]
        return SourceSample(str(path), path.read_bytes())


def visible_entries(folder: Path) -> list[Path]:
    """Files and folders in a folder, by name, without hidden ones and those that systems left."""
    return sorted(path for path in folder.iterdir() if not is_junk(path.name))


def refuse_irregular(path: Path) -> NoReturn:
    """Refuse what has the name of an image and is a FIFO, a device or a link to nothing.

    Raises:
        SourceError: always.
    """
    raise SourceError(f"{path} is not a regular file, nor a link to one; remove or replace it")


def images_below(folder: Path, skipped: Skipped) -> list[str]:
    """Paths from the folder to its images, folder by folder in alphabetical order.

    Raises:
        SourceError: what has the name of an image is no regular file.
    """
    images: list[str] = []
    pending = [""]
    while pending:
        prefix = pending.pop()
        # The type of an entry takes no further call of the system, unless it is a link.
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                if is_junk(entry.name):
                    skipped.add_junk()
                elif entry.is_dir(follow_symlinks=False):
                    pending.append(f"{prefix}{entry.name}/")
                elif entry.is_dir():
                    skipped.add_link()
                elif not is_image(entry.name):
                    skipped.add(entry.name)
                elif entry.is_file():
                    images.append(prefix + entry.name)
                else:
                    refuse_irregular(Path(entry.path))
    return sorted(images, key=lambda image: image.split("/"))
