"""Tars with a folder or an inner tar for each class, and folders of such inner tars."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_pipeline.sources.levels import hold_classes
from data_pipeline.sources.skipped import Skipped
from data_pipeline.sources.source import SourceError
from data_pipeline.sources.tar_images import (
    TarFiles,
    TarImages,
    TarIndex,
    images_among,
    in_order,
)
from data_pipeline.sources.tar_members import Member, members_between, read_members

CLASS_TAR = re.compile(r"(n\d{8})\.tar")


def open_train_tar(path: Path, members: Iterable[Member]) -> TarImages:
    """ILSVRC2012's train tar: for each class an inner tar such as n01440764.tar.

    Raises:
        SourceError: other files in it, or an inner tar that is damaged or has no images.
    """
    inner = in_order(path, (member for member in members if not member.is_folder))
    for member in inner:
        if not CLASS_TAR.fullmatch(member.name):
            raise SourceError(
                f"{path} holds {member.name} beside tars of classes; "
                "give ILSVRC2012's train tar, or a tar of <class>/<image> files"
            )
    index, skipped = TarIndex(TarFiles([path])), Skipped()
    with path.open("rb") as file:
        for label, member in enumerate(inner):
            end = member.offset + member.size
            where = path / member.name
            images = members_between(file, where, member.offset, end, skipped)
            _add_class(index, where, 0, label, images)
    skipped.log(path)
    return index.source([member.name.removesuffix(".tar") for member in inner])


def open_class_tars(paths: Sequence[Path]) -> TarImages:
    """One tar per class, such as n01440764.tar: ILSVRC2012's train tar after extraction.

    Raises:
        SourceError: a tar that is damaged or has no images.
    """
    index, skipped = TarIndex(TarFiles(paths)), Skipped()
    for label, path in enumerate(paths):
        _add_class(index, path, label, label, read_members(path, skipped))
    skipped.log(paths[0].parent)
    return index.source([path.stem for path in paths])


def _add_class(
    index: TarIndex, where: Path, tar_number: int, label: int, members: Iterable[Member]
) -> None:
    images = in_order(where, images_among(members))
    if not images:
        raise SourceError(f"{where} has no images; if it is no class, move it elsewhere")
    for image in images:
        index.add(tar_number, image, label, f"{where.stem}/{image.name}")


def open_tar_of_folders(path: Path, members: Sequence[Member]) -> TarImages:
    """A tar of <class>/<image>; the class folders may be below common parent folders.

    Raises:
        SourceError: a class without images, an image without a class, or two images of one name.
    """
    images = in_order(path, images_among(members))
    prefix = _common_folder(images)
    depth = len(prefix)
    by_class: dict[str, list[Member]] = {}
    for image in images:
        if len(image.parts) < depth + 2:
            raise SourceError(
                f"{path} holds {image.name} outside the class folders; move or remove it"
            )
        by_class.setdefault(image.parts[depth], []).append(image)
    for member in members:
        parts = member.parts
        is_class = member.is_folder and parts[:depth] == prefix and len(parts) == depth + 1
        if is_class and parts[depth] not in by_class:
            raise SourceError(
                f"{path} has no images in {member.name}; if it is no class, remove it from the tar"
            )
    subfolders = {
        name: {image.parts[depth + 1] for image in members if len(image.parts) > depth + 2}
        for name, members in by_class.items()
    }
    if not hold_classes(sorted(by_class), subfolders.__getitem__):
        raise SourceError(
            f"{path} holds {', '.join(sorted(by_class)[:4])}, not classes; unpack it, and convert "
            "the folders in it one by one"
        )
    index = TarIndex(TarFiles([path]))
    for label, name in enumerate(sorted(by_class)):
        for image in by_class[name]:
            index.add(0, image, label, "/".join(image.parts[depth:]))
    return index.source(sorted(by_class))


def _common_folder(images: Sequence[Member]) -> list[str]:
    """The deepest folder that contains all images, which are sorted."""
    first, last = images[0].parts[:-1], images[-1].parts[:-1]
    # In sorted order, all images share the common prefix of the first and the last.
    depth = 0
    while depth < min(len(first), len(last)) and first[depth] == last[depth]:
        depth += 1
    return first[:depth]


def is_flat(images: Iterable[Member]) -> bool:
    """Whether all images are in one folder, so that it is not a class."""
    return len({image.name.rpartition("/")[0] for image in images}) == 1
