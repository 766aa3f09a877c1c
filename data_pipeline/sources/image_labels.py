"""Labels of images in a text file, and the names of ImageNet's classes."""

import codecs
import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.json_files import UnusableFileError, read_bounded
from data_pipeline.sources.source import SourceError, class_index, is_image, numbered_classes

# A line for each image of a dataset.
LIMIT_BYTES = 200_000_000
IMAGENET_PATH = Path(__file__).with_name("imagenet_classes.json")
WNID = re.compile(r"n\d{8}")
# With this many of ImageNet's classes, the dataset is taken to be a sample of all of them.
MIN_CLASSES_OF_IMAGENET = 501


class ImageLabels(NamedTuple):
    """Names of the classes, and the index into them of each image, [N]."""

    classes: list[str]
    labels: NDArray[np.int64]


def read_label_file(path: Path, images: Sequence[str], source: Path) -> ImageLabels:
    """Labels of ``images``, the names of ``source``'s files in alphabetical order.

    A label is a wnid, or a class index from 0. Lines without file names are in the order of the
    images. In a CSV, text after a label and a space is ignored, as in Kaggle's solutions.

    Raises:
        SourceError: lines of another kind, or labels that do not belong to these images.
    """
    rows = _rows(path)
    check_number(path, len(rows), source, len(images))
    texts = _by_name(path, rows, images, source) if len(rows[0]) == 2 else [row[0] for row in rows]
    if class_index(texts[0]) is None:
        return labels_of_wnids(texts)
    labels = np.array([int(text) for text in texts], np.int64)
    if labels.min() == 1:
        raise SourceError(
            f"{path} has labels from 1 on, and a class index starts at 0; subtract 1, or give the "
            "devkit if they are ILSVRC's own ids"
        )
    return ImageLabels(numbered_classes(labels), labels)


def labels_of_wnids(wnids: Sequence[str]) -> ImageLabels:
    """Labels of wnids. The classes are the wnids that occur, or all 1,000 if most of them do."""
    distinct, known = set(wnids), set(imagenet_names())
    if len(distinct) >= MIN_CLASSES_OF_IMAGENET and distinct <= known:
        distinct = known
    classes = sorted(distinct)
    positions = {wnid: position for position, wnid in enumerate(classes)}
    return ImageLabels(classes, np.array([positions[wnid] for wnid in wnids], np.int64))


def check_number(path: Path, num_labels: int, source: Path, num_images: int) -> None:
    """Check that there is one label for each image.

    Raises:
        SourceError: the numbers differ.
    """
    if num_labels != num_images:
        raise SourceError(
            f"{path} has {num_labels} labels for the {num_images} images of {source}; "
            "give the labels of exactly these images"
        )


def _rows(path: Path) -> list[list[str]]:
    """The columns of each line, without a header: a label, or a file name and a label."""
    if path.name == "ILSVRC2012_validation_ground_truth.txt":
        raise SourceError(f"{path} has ids of ILSVRC, not classes from 0; give the whole devkit")
    try:
        content = read_bounded(path, LIMIT_BYTES, follow_links=True)
    except UnusableFileError as error:
        raise SourceError(str(error)) from error
    if b"\0" in content:
        raise SourceError(f"{path} is not text; give a devkit or a file of labels")
    # Names of files need not be UTF-8, and are the same here and where files are listed.
    lines = content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape").splitlines()
    rows = [_columns(line) for line in lines if line.strip()]
    if rows and not _is_label(rows[0][-1]):
        # A header. If it is a damaged line instead, the number of labels is wrong.
        del rows[0]
    if not rows:
        raise SourceError(f"{path} has no labels; give a wnid or class number in each line")
    for row in rows:
        if len(row) != len(rows[0]) or not _is_label(row[-1]):
            raise SourceError(
                f"{path} has a line {' '.join(row)[:80]!r}; "
                "give a wnid or class number, or a file name and one of them, in each line"
            )
    if len({class_index(row[-1]) is None for row in rows}) > 1:
        raise SourceError(f"{path} mixes wnids and class numbers; give one kind only")
    return rows


def _columns(line: str) -> list[str]:
    if "\t" in line:
        # Tiny ImageNet's annotations: name, wnid, and the four numbers of a box.
        return [cell.strip() for cell in line.strip().split("\t")[:2]]
    if "," in line:
        name, _, rest = line.partition(",")
        return [name.strip().strip('"'), (rest.strip().strip('"').split() or [""])[0]]
    # From the right, because a file name may contain spaces.
    return line.rsplit(maxsplit=1) if len(line.split()) > 1 else [line.strip()]


def _is_label(text: str) -> bool:
    return WNID.fullmatch(text) is not None or class_index(text) is not None


def _by_name(
    path: Path, rows: Sequence[Sequence[str]], images: Sequence[str], source: Path
) -> list[str]:
    """The labels in the order of the images."""
    labels: dict[str, str] = {}
    for name, label in rows:
        if _stem(name) in labels:
            raise SourceError(f"{path} has two labels for {name}; keep one of them")
        labels[_stem(name)] = label
    if len({_stem(image) for image in images}) < len(images):
        raise SourceError(f"{source} has files that differ only in their suffix; rename them")
    for image in images:
        if _stem(image) not in labels:
            raise SourceError(f"{path} has no label for {image} of {source}; add it")
    return [labels[_stem(image)] for image in images]


def _stem(name: str) -> str:
    """The file's name without folders and suffix: label files may have neither."""
    path = PurePosixPath(name)
    return path.stem if is_image(name) else path.name


def imagenet_names() -> dict[str, str]:
    """Readable names of ILSVRC2012's 1,000 classes, by wnid such as n01440764."""
    names: dict[str, str] = json.loads(IMAGENET_PATH.read_text(encoding="utf-8"))
    return names


def human_names(classes: Sequence[str]) -> list[str]:
    """Readable names of ImageNet's classes; other classes keep their names."""
    names = imagenet_names()
    return [names.get(name, name) for name in classes]
