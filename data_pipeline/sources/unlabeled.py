"""Images without labels: all of a folder, of tars or of shards, in whatever folders they are."""

from collections.abc import Sequence, Sized
from pathlib import Path

import numpy as np

from data_pipeline.manifest import UNLABELED_CLASS
from data_pipeline.sources.cifar import find_cifar
from data_pipeline.sources.class_lists import RelabeledSource
from data_pipeline.sources.folders import ImageFolder, images_below, visible_entries
from data_pipeline.sources.opening import IDX_IMAGES, open_source
from data_pipeline.sources.shards import expand, is_pattern
from data_pipeline.sources.skipped import Skipped, log_others
from data_pipeline.sources.source import (
    IMAGE_SUFFIXES,
    Names,
    Source,
    SourceError,
    is_image,
    name_keys,
)
from data_pipeline.sources.tar_images import (
    TarFiles,
    TarImages,
    TarIndex,
    images_among,
    in_order,
)
from data_pipeline.sources.tar_members import Member, members_between, read_members

CLASSES = [UNLABELED_CLASS]


def open_unlabeled(path: Path, *, split: str = "train") -> Source:
    """All images at ``path``, of one class; labels and classes that there may be are ignored.

    Args:
        path: a folder of images, at any depth, or of tars; a tar, also of tars; shards such as
            train-{000..127}.tar; CIFAR or IDX files.
        split: "train" or "test" of CIFAR or of a folder of IDX files.

    Raises:
        SourceError: a path that does not exist, is not a known source, is damaged or has no images.
    """
    if is_pattern(path) and not path.exists():
        return _open_tars(path, expand(path))
    if path.is_file() and path.suffix.lower() == ".tar":
        return _open_tars(path, [path])
    if path.is_dir():
        entries = visible_entries(path)
        tars = [entry for entry in entries if entry.name.lower().endswith(".tar")]
        if tars:
            if any(entry.is_dir() or is_image(entry.name) for entry in entries):
                raise SourceError(f"{path} has tars beside folders or images; give one kind")
            log_others(path, {tar.name for tar in tars})
            return _open_tars(path, tars)
        if not find_cifar(path) and not any(IDX_IMAGES in entry.name for entry in entries):
            return _open_folder(path)
    if is_image(path.name):
        raise SourceError(f"{path} is an image; give a folder of images")
    source = open_source(path, split=split)
    indices = np.arange(len(source.labels))
    return RelabeledSource(source, indices, CLASSES, np.zeros_like(indices))


def _open_folder(root: Path) -> ImageFolder:
    skipped = Skipped()
    names = images_below(root, skipped)
    skipped.log(root)
    _require_images(root, names)
    labels = np.zeros(len(names), np.int64)
    return ImageFolder(CLASSES, labels, name_keys(names), root, Names.of(names))


def _open_tars(path: Path, tars: Sequence[Path]) -> TarImages:
    """The images of all tars, and of the tars in them; ``path`` names them in messages."""
    index, skipped = TarIndex(TarFiles(tars)), Skipped()
    for number, tar in enumerate(tars):
        members = read_members(tar, skipped)
        _add(index, number, tar, members, skipped)
        with tar.open("rb") as file:
            for inner in in_order(tar, filter(_is_tar, members)):
                where, end = tar / inner.name, inner.offset + inner.size
                below = members_between(file, where, inner.offset, end, skipped)
                _add(index, number, where, list(below), skipped)
    skipped.log(path)
    source = index.source(CLASSES)
    _require_images(path, source.names)
    return source


def _add(
    index: TarIndex, number: int, where: Path, members: Sequence[Member], skipped: Skipped
) -> None:
    for image in in_order(where, images_among(members)):
        index.add(number, image, 0, image.name)
    for member in members:
        # The classes of shards; read_members takes them for parts of a source.
        if member.name.lower().endswith(".cls"):
            skipped.add(member.name)


def _is_tar(member: Member) -> bool:
    return not member.is_folder and member.name.lower().endswith(".tar")


def _require_images(path: Path, names: Sized) -> None:
    if not len(names):
        raise SourceError(f"{path} has no images ({', '.join(IMAGE_SUFFIXES)}); give others")
