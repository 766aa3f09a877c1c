"""Whether the folders of a source are its classes, and not one level above or below."""

from collections.abc import Sequence
from pathlib import Path

from data_pipeline.sources.source import SourceError
from data_pipeline.text import is_name

SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}
# Of datasets that are distributed with more than images.
PARENT_NAMES = {"data", "annotations", "imagesets", "images", "labels"}
# What operating systems and file servers leave in folders.
JUNK_NAMES = {
    *("__macosx", "lost+found", "@eadir", "#recycle", "#snapshot", "$recycle.bin"),
    *("system volume information", "thumbs.db", "desktop.ini"),
}
MAX_DEPTH = 4
MAX_FOLDERS = 200


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden, or left by an operating system or a file server."""
    return name.startswith(".") or name.lower() in JUNK_NAMES


def check_level(root: Path, folders: Sequence[Path]) -> None:
    """Check that ``folders``, those in ``root``, may be classes by their names.

    Raises:
        SourceError: splits, or folders above these; names what to give instead.
    """
    names = {folder.name.lower() for folder in folders}
    are_parents = len(folders) > 1 and names <= SPLIT_NAMES | PARENT_NAMES
    if are_parents or len(names & SPLIT_NAMES) > 1:
        shown = ", ".join(folder.name for folder in folders[:4])
        level = find_level(root) or folders[0]
        raise SourceError(
            f"{root} holds {shown}, not classes; convert {level} and the others one by one"
        )


def find_level(root: Path) -> Path | None:
    """The first folder of at least two class folders from ``root`` on, train before others."""
    level = [root]
    for _ in range(MAX_DEPTH):
        for folder in level:
            folders = folders_in(folder)
            names = {each.name.lower() for each in folders}
            if len(folders) > 1 and not names & (SPLIT_NAMES | PARENT_NAMES):
                return folder
        below = [each for folder in level for each in folders_in(folder)]
        level = sorted(below, key=_order)[:MAX_FOLDERS]
    return None


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder by name, without those that are junk."""
    return sorted(each for each in folder.iterdir() if each.is_dir() and not is_junk(each.name))


def _order(folder: Path) -> tuple[bool, bool, Path]:
    """Those that may lead to classes of train first."""
    without_images = {"annotations", "imagesets", "labels"}
    is_without = any(part.lower() in without_images for part in folder.parts)
    return is_without, not folder.name.lower().startswith("train"), folder


def check_classes(path: Path, classes: Sequence[str]) -> None:
    """Check the names of a source's classes before its images are read.

    Raises:
        SourceError: fewer than two, or a name that a manifest cannot hold.
    """
    for name in classes:
        if not is_name(name):
            raise SourceError(
                f"{path} has the class {name}, whose name is not UTF-8 or has control characters; "
                "rename it"
            )
    if len(classes) < 2:
        level = find_level(path) if path.is_dir() else None
        remedy = (
            f"give {level}"
            if level
            else "give a source of two or more, or --labels for images in one folder"
        )
        raise SourceError(f"{path} has only the class {', '.join(classes)}; {remedy}")
