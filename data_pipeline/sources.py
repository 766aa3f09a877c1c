"""Where images come from before they are converted: folders and IDX files.

A source is indexable: it knows its classes and labels at once and reads one sample at a time, so
that several processes can share the work.
"""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")


class SourceSample(NamedTuple):
    """One image as it lies in the source: encoded bytes of a file, or pixels [H, W, 3] uint8."""

    name: str
    image: bytes | NDArray[np.uint8]


class Source(Protocol):
    """Labelled images that can be read in any order."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; a label is a position in it."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image, [N]."""

    def read(self, index: int) -> SourceSample:
        """The image at ``index``."""


class SourceError(ValueError):
    """A source that cannot be read; the message names the path and the remedy."""


@dataclass(frozen=True)
class ImageFolder:
    """One folder per class with image files anywhere below it; classes in alphabetical order."""

    classes: Sequence[str]
    labels: NDArray[np.int64]
    paths: Sequence[Path]

    @staticmethod
    def open(root: Path) -> "ImageFolder":
        """List a folder's classes and images."""
        folders = sorted(path for path in root.iterdir() if path.is_dir())
        paths: list[Path] = []
        labels: list[int] = []
        for label, folder in enumerate(folders):
            images = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
            if not images:
                raise SourceError(f"{folder} has no images; remove it or fill it")
            paths += images
            labels += [label] * len(images)
        if not paths:
            raise SourceError(
                f"{root} has no class folders; give a folder of <class>/<image> files"
            )
        return ImageFolder([folder.name for folder in folders], np.array(labels, np.int64), paths)

    def read(self, index: int) -> SourceSample:
        """The file's bytes as they are."""
        path = self.paths[index]
        return SourceSample(str(path), path.read_bytes())


@dataclass(frozen=True)
class IdxImages:
    """Grey images and labels in the IDX format of MNIST, gzipped or plain."""

    classes: Sequence[str]
    labels: NDArray[np.int64]
    path: Path
    images: NDArray[np.uint8]

    @staticmethod
    def open(images_path: Path) -> "IdxImages":
        """Read NAME-images-idx3-ubyte[.gz] and the labels beside it."""
        labels_path = images_path.with_name(images_path.name.replace("images-idx3", "labels-idx1"))
        images, labels = read_idx(images_path), read_idx(labels_path).astype(np.int64)
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise SourceError(
                f"{images_path} holds {images.shape} and {labels_path} {labels.shape}; "
                "give images [N, H, W] with one label each"
            )
        classes = [str(label) for label in range(int(labels.max()) + 1)]
        return IdxImages(classes, labels, images_path, images)

    def read(self, index: int) -> SourceSample:
        """The image with its grey value in all three channels."""
        grey = self.images[index]
        return SourceSample(f"{self.path}[{index}]", np.repeat(grey[:, :, None], 3, axis=2))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes.

    Raises:
        SourceError: a file that is missing, damaged or of another kind.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError) as error:
        raise SourceError(f"{path} cannot be read ({error}); give an IDX file") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise SourceError(f"{path} is not an IDX file of unsigned bytes; give one like MNIST's")
    num_axes = data[3]
    shape = np.frombuffer(data, dtype=">u4", count=num_axes, offset=4).astype(np.int64)
    pixels = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * num_axes)
    if len(pixels) != shape.prod():
        raise SourceError(f"{path} is truncated; copy it again")
    return pixels.reshape(shape)


def open_source(path: Path, *, labels: Path | None = None, split: str = "train") -> Source:  # noqa: ARG001
    """Recognise what ``path`` is.

    Raises:
        SourceError: a path that does not exist or is no known source.
    """
    if path.is_dir():
        return ImageFolder.open(path)
    if "images-idx3" in path.name and path.is_file():
        return IdxImages.open(path)
    if not path.exists():
        raise SourceError(
            f"{path} does not exist; give a folder of <class>/<image>, or an IDX file"
        )
    raise SourceError(
        f"{path} is no known source; give a folder of <class>/<image>, or an IDX file"
    )
