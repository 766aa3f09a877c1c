"""Images in a single folder or tar with labels in another file, such as ILSVRC2012's val."""

from collections.abc import Sequence
from pathlib import Path

from data_pipeline.sources.devkit import is_devkit, read_devkit
from data_pipeline.sources.folders import ImageFolder, refuse_irregular
from data_pipeline.sources.image_labels import ImageLabels, read_label_file
from data_pipeline.sources.skipped import log_others
from data_pipeline.sources.source import Names, SourceError, name_keys
from data_pipeline.sources.tar_images import (
    TarFiles,
    TarImages,
    TarIndex,
    images_among,
    in_order,
)
from data_pipeline.sources.tar_members import Member


def open_flat_tar(path: Path, members: Sequence[Member], labels_path: Path | None) -> TarImages:
    """A tar of images in one folder, in the order of their names.

    Raises:
        SourceError: labels that are missing, damaged or of other images; two images of one name.
    """
    images = in_order(path, images_among(members))
    classes, labels = _read_labels(path, [image.parts[-1] for image in images], labels_path)
    index = TarIndex(TarFiles([path]))
    for image, label in zip(images, labels.tolist(), strict=True):
        index.add(0, image, label, f"{classes[label]}/{image.parts[-1]}")
    return index.source(classes)


def open_flat_folder(root: Path, names: Sequence[str], labels_path: Path | None) -> ImageFolder:
    """Images in ``root`` itself; ``names`` in alphabetical order.

    Raises:
        SourceError: labels that are missing, damaged or of other images.
    """
    for name in names:
        if not (root / name).is_file():
            refuse_irregular(root / name)
    classes, labels = _read_labels(root, names, labels_path)
    log_others(root, set(names))
    pairs = zip(labels.tolist(), names, strict=True)
    keys = name_keys(f"{classes[label]}/{name}" for label, name in pairs)
    return ImageFolder(classes, labels, keys, root, Names.of(names))


def _read_labels(path: Path, names: Sequence[str], labels_path: Path | None) -> ImageLabels:
    if labels_path is None:
        raise SourceError(
            f"{path} has its images in one folder, without classes; give labels too: "
            "ILSVRC2012's devkit or a text file"
        )
    if not labels_path.exists():
        raise SourceError(f"{labels_path} does not exist; give a devkit or a file of labels")
    if not labels_path.is_file() and not labels_path.is_dir():
        raise SourceError(f"{labels_path} is not a file; give a devkit or a file of labels")
    read = read_devkit if is_devkit(labels_path) else read_label_file
    return read(labels_path, names, path)
