"""Whether the folders of a source are its classes, and not one level above or below."""

import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.sources.image_labels import WNID
from data_pipeline.sources.skipped import is_junk
from data_pipeline.sources.source import Source, SourceError
from data_pipeline.text import is_name

_SPLITS = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}
# Of datasets that are distributed with more than images.
_WITHOUT_IMAGES = {"annotations", "imagesets", "labels"}
_PARENTS = {"data", "images", *_WITHOUT_IMAGES}
_MAX_DEPTH = 6
_MAX_FOLDERS = 200
_MAX_EXAMINED = 20


def hold_classes(names: Sequence[str], subfolders_of: Callable[[str], Collection[str]]) -> bool:
    """Whether folders of these names may be classes, by their names and the folders in them.

    They are splits if most are named as two or more of them, such as train_images and val2017; one
    that is named as a split and has several folders is a split too, as train is beside extra. A
    class may be named bullet_train and have images. Folders of several wnids are no classes.
    """
    named = [name for name in names if split_of(name)]
    if len({split_of(name) for name in named}) > 1 and 2 * len(named) > len(names):
        return False
    lowered = {name.lower() for name in names}
    if len(names) > 1 and lowered <= _PARENTS | set(_SPLITS):
        return False
    others = [name for name in names if not WNID.fullmatch(name)]
    for name in [*named, *others[:_MAX_EXAMINED]]:
        subfolders = subfolders_of(name)
        num_wnids = sum(WNID.fullmatch(subfolder) is not None for subfolder in subfolders)
        if num_wnids > 1 or (split_of(name) and len(subfolders) > 1):
            return False
    return True


def split_of(name: str) -> str | None:
    """The split that a folder's name has as one of its words, such as val in imagenet-val."""
    words = re.split("[^a-z]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def check_level(root: Path, names: Sequence[str]) -> None:
    """Check that the folders ``names`` in ``root`` may be classes.

    Raises:
        SourceError: splits, or folders above these; names what to give instead.
    """
    if not hold_classes(names, _subfolders(root)):
        level = find_level(root) or root / names[0]
        raise SourceError(
            f"{root} holds {', '.join(names[:4])}, not classes; {_remedy(root, names, level)}"
        )


def _remedy(root: Path, names: Sequence[str], level: Path) -> str:
    """What to convert instead of ``root`` with the folders ``names``, first of all ``level``."""
    chosen = split_of(level.relative_to(root).parts[0])
    splits = [name for name in names if split_of(name) and find_level(root / name)]
    parts = [name for name in splits if split_of(name) == chosen]
    if len(parts) > 1:
        return (
            f"if {' and '.join(parts)} are parts of one split, move their class folders into one "
            "folder and convert that, otherwise one by one"
        )
    return f"convert {level}" + (" and the other splits one by one" if len(splits) > 1 else "")


def find_level(root: Path) -> Path | None:
    """The first folder of at least two class folders from ``root`` on, train before others."""
    level = [root]
    for _ in range(_MAX_DEPTH):
        for folder in level:
            names = folders_in(folder)
            if len(names) > 1 and hold_classes(names, _subfolders(folder)):
                return folder
        below = [folder / name for folder in level for name in folders_in(folder)]
        level = sorted(below, key=_order)[:_MAX_FOLDERS]
    return None


def folders_in(folder: Path) -> list[str]:
    """Names of the folders in a folder, in order, without those that are junk."""
    with os.scandir(folder) as entries:
        return sorted(each.name for each in entries if each.is_dir() and not is_junk(each.name))


def _subfolders(folder: Path) -> Callable[[str], Collection[str]]:
    return lambda name: folders_in(folder / name)


def _order(folder: Path) -> tuple[bool, bool, Path]:
    """Those that may lead to classes of train first."""
    is_without = any(part.lower() in _WITHOUT_IMAGES for part in folder.parts)
    return is_without, split_of(folder.name) != "train", folder


def check_classes(path: Path, source: Source) -> None:
    """Check the classes of a source before its images are read.

    Raises:
        SourceError: images of fewer than two, or a name that a manifest cannot hold.
    """
    for name in source.classes:
        if not is_name(name):
            raise SourceError(
                f"{path} has the class {name}, whose name is not UTF-8 or has control characters; "
                "rename it"
            )
    found = np.unique(source.labels)
    if len(found) < 2:
        level = find_level(path) if path.is_dir() else None
        if level == path:
            level = None
        remedy = f"give {level}" if level else "give a source of two or more"
        names = ", ".join(source.classes[label] for label in found)
        raise SourceError(f"{path} has images of only the class {names}; {remedy}")
