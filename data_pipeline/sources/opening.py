"""Recognizes which kind of source a path is."""

import re
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.sources.cifar import CifarImages, find_cifar
from data_pipeline.sources.flat_images import open_flat_folder, open_flat_tar
from data_pipeline.sources.folders import ImageFolder, visible_entries
from data_pipeline.sources.idx import PREFIXES, IdxImages, images_path
from data_pipeline.sources.shards import expand, is_pattern, open_shards
from data_pipeline.sources.skipped import Skipped, log_others
from data_pipeline.sources.source import Source, SourceError, is_image, refuse_labels
from data_pipeline.sources.tar_images import images_among
from data_pipeline.sources.tar_members import COMPRESSED_SUFFIXES, read_members, refuse_compressed
from data_pipeline.sources.tars import (
    CLASS_TAR,
    is_flat,
    open_class_tars,
    open_tar_of_folders,
    open_train_tar,
)

IDX_IMAGES = "images-idx3"
IDX = re.compile("images-idx3|labels-idx1")
# Tiny ImageNet's labels of val.
ANNOTATIONS = "val_annotations.txt"
KINDS = (
    "give a folder or .tar of <class>/<image>, ILSVRC2012's train or val .tar, "
    "WebDataset shards, a CIFAR folder, or an IDX file"
)


def open_source(path: Path, *, labels: Path | None = None, split: str = "train") -> Source:
    """Recognize what ``path`` is and list its images.

    Args:
        path: a file, a folder, or shards such as train-{000..127}.tar.
        labels: ILSVRC2012's devkit or a text file, for images in a single folder or tar.
        split: "train" or "test" of CIFAR or of a folder of IDX files; other sources have none.

    Raises:
        SourceError: a path that does not exist, is not a known source or is damaged, or labels
            that are missing, not needed or of other images.
    """
    if split not in PREFIXES:
        raise SourceError(f"{path} cannot have a split {split!r}; give train or test")
    if path.is_dir():
        return _open_folder(path, labels, split)
    if path.is_file():
        return _open_file(path, labels)
    if path.exists():
        raise SourceError(f"{path} is not a regular file; {KINDS}")
    if is_pattern(path):
        refuse_labels(path, labels)
        return open_shards(path, expand(path))
    raise SourceError(f"{path} does not exist; {KINDS}")


def _open_folder(path: Path, labels: Path | None, split: str) -> Source:
    entries = visible_entries(path)
    files = [entry for entry in entries if not entry.is_dir()]
    images = [file.name for file in files if is_image(file.name)]
    tars = [file for file in files if file.name.lower().endswith(".tar")]
    if images and tars:
        raise SourceError(f"{path} has tars and images, such as {images[0]}; give a folder of tars")
    if images and len(files) == len(entries):
        return open_flat_folder(path, images, labels)
    if flat := _flat_below(path, entries, labels):
        return flat
    refuse_labels(path, labels)
    cifar = find_cifar(path)
    if cifar is not None:
        return CifarImages.open(cifar, split)
    if any(IDX_IMAGES in file.name for file in files):
        log_others(path, {file.name for file in files if IDX.search(file.name)})
        return IdxImages.open(images_path(path, split))
    if not tars:
        return ImageFolder.open(path)
    if len(files) != len(entries):
        raise SourceError(f"{path} has tars and folders; give a folder of either")
    log_others(path, {tar.name for tar in tars})
    if all(CLASS_TAR.fullmatch(tar.name) for tar in tars):
        return open_class_tars(tars)
    return open_shards(path, tars)


def _flat_below(path: Path, entries: Sequence[Path], labels: Path | None) -> Source | None:
    """Images in the folder "images", or in the only one, with labels of another file.

    As in Tiny ImageNet's val, whose own labels are found. None if there is no such folder.
    """
    folders = [entry for entry in entries if entry.is_dir()]
    labels = labels or next((entry for entry in entries if entry.name == ANNOTATIONS), None)
    named = [folder for folder in folders if folder.name == "images"] or folders
    if labels is None or len(named) != 1:
        return None
    names = [entry.name for entry in visible_entries(named[0]) if is_image(entry.name)]
    if not names:
        return None
    log_others(path, {named[0].name, labels.name})
    return open_flat_folder(named[0], names, labels)


def _open_file(path: Path, labels: Path | None) -> Source:
    if IDX_IMAGES in path.name:
        refuse_labels(path, labels)
        return IdxImages.open(path)
    if path.suffix.lower() == ".zip":
        raise SourceError(f"{path} is a zip archive; unpack it, and give the folder of the images")
    if path.name.lower().endswith(COMPRESSED_SUFFIXES):
        refuse_compressed(path)
    if path.suffix.lower() != ".tar":
        raise SourceError(f"{path} is not a known source; {KINDS}")
    skipped = Skipped()
    members = read_members(path, skipped)
    suffixes = {member.name.rpartition(".")[2].lower() for member in members}
    images = list(images_among(members))
    if images and is_flat(images) and not suffixes & {"cls", "tar"}:
        skipped.log(path)
        if labels is None and any(member.parts[-1] == ANNOTATIONS for member in members):
            raise SourceError(f"{path} has its labels in {ANNOTATIONS}; unpack it, give the folder")
        return open_flat_tar(path, members, labels)
    refuse_labels(path, labels)
    if "cls" in suffixes:
        # It counts and reports what it skips.
        return open_shards(path, [path])
    skipped.log(path)
    if "tar" in suffixes:
        return open_train_tar(path, members)
    if not images:
        raise SourceError(f"{path} has no images; {KINDS}")
    return open_tar_of_folders(path, members)
