"""The interface of sources of labeled images, and helpers that they share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from data_pipeline.beton import digest
from data_pipeline.text import printable

IMAGE_SUFFIXES = (
    *(".jpeg", ".jpg", ".jfif", ".png", ".bmp", ".webp"),
    *(".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"),
)
# A greater label is a sign of a damaged file, or an identifier instead of a class index.
MAX_NUM_CLASSES = 1_000_000


class SourceSample(NamedTuple):
    """One image: ``name`` for messages, and the bytes of its file or pixels [H, W, 3] uint8 RGB."""

    name: str
    image: bytes | NDArray[np.uint8]


class Source(Protocol):
    """Labeled images that can be read in any order by several threads; picklable."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; a label is an index into them."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image, [N]."""

    @property
    def keys(self) -> NDArray[np.uint64]:
        """What the choice of samples goes by, [N]; see ``name_key`` and ``pixel_keys``.

        An image has the same key whatever other images there are, and in whichever order.
        """

    def read(self, index: int) -> SourceSample:
        """The image at ``index``.

        Raises:
            SourceError: the source changed since it was opened.
            OSError: a file cannot be read.
        """


class SourceError(ValueError):
    """A source that cannot be read; the message, one line, names the path and the remedy."""

    def __init__(self, message: str):
        # It repeats names, which may have newlines and bytes that are no UTF-8.
        super().__init__(printable(message))


@dataclass(frozen=True)
class Names:
    """File names packed into one ``text``: millions of strings need much memory and pickle slowly.

    ``ends`` [N]: the end of each name in ``text``, in bytes.
    """

    text: bytes
    ends: NDArray[np.int64]

    @staticmethod
    def of(names: Iterable[str]) -> "Names":
        """Pack the names; file names that are not valid UTF-8 are kept as they are."""
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return Names(b"".join(encoded), np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        end = int(self.ends[index])
        start = int(self.ends[index - 1]) if index else 0
        return self.text[start:end].decode("utf-8", "surrogateescape")


def name_key(name: str) -> int:
    """Key of an image with a name, <class>/<path below the class's folder>.

    An image in a folder has the same key as in a tar.
    """
    return digest(name.encode("utf-8", "surrogateescape"))


def name_keys(names: Iterable[str]) -> NDArray[np.uint64]:
    """Keys of images with names, [N]; see ``name_key``."""
    return np.fromiter(map(name_key, names), np.uint64)


def pixel_keys(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint64]:
    """Keys of images without names, [N]: those of their pixels."""
    return np.fromiter((digest(image.tobytes()) for image in images), np.uint64)


def is_image(name: str) -> bool:
    """Whether a file of this name counts as an image, by its suffix."""
    # Called for millions of names, for which pathlib is too slow.
    return name[name.rfind(".") :].lower() in IMAGE_SUFFIXES


def class_index(text: str) -> int | None:
    """The class number in decimal digits; None for other text."""
    if not (text.isascii() and text.isdigit()):
        return None
    # Converting very long numbers is slow, and Python raises an error above a limit.
    if len(text) > len(str(MAX_NUM_CLASSES)) or int(text) >= MAX_NUM_CLASSES:
        return None
    return int(text)


def numbered_classes(labels: NDArray[np.int64]) -> list[str]:
    """Names "0" to "K-1" for classes without names; at least one label is needed."""
    return [str(label) for label in range(int(labels.max()) + 1)]


def refuse_labels(path: Path, labels: Path | None) -> None:
    """Reject a labels file for a source that has its own labels.

    Raises:
        SourceError: ``labels`` is not None.
    """
    if labels is not None:
        raise SourceError(f"{path} has its own classes, not those of {labels}; leave labels out")
