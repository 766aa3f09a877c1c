"""Images and labels in the IDX format of MNIST."""

import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from data_pipeline.files import open_regular
from data_pipeline.sources.source import SourceError, SourceSample, numbered_classes, pixel_keys

PREFIXES = {"train": "train", "test": "t10k"}
# More than EMNIST, the largest data set in this format.
MAX_BYTES = 1 << 30


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
        SourceError: a file that is missing, damaged, too large or of another kind.
    """
    try:
        with open_regular(path, "rb", follow_links=True) as file:
            if path.suffix != ".gz":
                return _read_array(path, file)
            with gzip.GzipFile(fileobj=file) as content:
                return _read_array(path, content)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path} cannot be read ({error}); give an IDX file") from error


def _read_array(path: Path, file: IO[bytes] | gzip.GzipFile) -> NDArray[np.uint8]:
    """Read no more than the header claims, whatever a compressed file expands to."""
    magic = file.read(4)
    # Labels have one axis, images three.
    if len(magic) < 4 or magic[:3] != b"\x00\x00\x08" or magic[3] not in (1, 3):
        raise SourceError(f"{path} is not an IDX file of unsigned bytes; give one like MNIST's")
    head = file.read(4 * magic[3])
    # As Python's integers: the product of false lengths may exceed 64 bits.
    shape = [int(length) for length in np.frombuffer(head[: len(head) // 4 * 4], ">u4")]
    num_bytes = math.prod(shape)
    if max(num_bytes, *shape, 0) > MAX_BYTES:
        raise SourceError(
            f"{path} is an array {shape} of bytes, which is kept in memory; "
            f"give at most {MAX_BYTES:,} bytes"
        )
    pixels = np.frombuffer(file.read(num_bytes + 1), np.uint8)
    if len(shape) < magic[3] or len(pixels) != num_bytes:
        raise SourceError(f"{path} is truncated or too long; copy it again")
    return pixels.reshape(shape)
