"""Images and labels in the IDX format of MNIST."""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.sources.source import SourceError, SourceSample, numbered_classes, pixel_keys

PREFIXES = {"train": "train", "test": "t10k"}


@dataclass(frozen=True)
class IdxImages:
    """Gray ``images`` [N, H, W] and ``labels`` [N] in memory."""

    classes: Sequence[str]
    labels: NDArray[np.int64]
    path: Path
    images: NDArray[np.uint8]

    @staticmethod
    def open(images_path: Path) -> "IdxImages":
        """Read NAME-images-idx3-ubyte[.gz] and its labels file in the same folder.

        Raises:
            SourceError: files that are missing, damaged, empty or do not belong together.
        """
        labels_path = images_path.with_name(images_path.name.replace("images-idx3", "labels-idx1"))
        images, labels = read_idx(images_path), read_idx(labels_path).astype(np.int64)
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise SourceError(
                f"{images_path} holds {images.shape} and {labels_path} {labels.shape}; "
                "give images [N, H, W] with one label each"
            )
        if not images.size:
            raise SourceError(f"{images_path} has no images; give a file with images")
        return IdxImages(numbered_classes(labels), labels, images_path, images)

    @property
    def keys(self) -> NDArray[np.uint64]:
        """Digests of the pixels, [N]."""
        return pixel_keys(self.images)

    def read(self, index: int) -> SourceSample:
        """The image with its gray value in all three channels, [H, W, 3]."""
        gray = self.images[index]
        return SourceSample(f"{self.path}[{index}]", np.repeat(gray[:, :, None], 3, axis=2))


def images_path(folder: Path, split: str) -> Path:
    """The file of a split's images in a folder with MNIST's file names.

    Raises:
        SourceError: no such file.
    """
    name = f"{PREFIXES[split]}-images-idx3-ubyte"
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise SourceError(f"{folder} has no {name}; give the file of the images itself")


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes; its shape is in the file's header.

    Raises:
        SourceError: a file that is missing, damaged or of another kind.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path} cannot be read ({error}); give an IDX file") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise SourceError(f"{path} is not an IDX file of unsigned bytes; give one like MNIST's")
    num_axes = data[3]
    num_head_bytes = 4 + 4 * num_axes
    shape = np.frombuffer(data[4:num_head_bytes].ljust(4 * num_axes, b"\x00"), ">u4")
    pixels = np.frombuffer(data[num_head_bytes:], np.uint8)
    if len(data) < num_head_bytes or len(pixels) != shape.prod(dtype=np.int64):
        raise SourceError(f"{path} is truncated; copy it again")
    return pixels.reshape(shape)
