"""What every source of labeled images offers, and what their readers share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

IMAGE_SUFFIXES = (
    *(".jpeg", ".jpg", ".jfif", ".png", ".bmp", ".webp"),
    *(".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"),
)
# A label beyond it is a damaged file or an identifier, not a position among classes.
MAX_NUM_CLASSES = 1_000_000


class SourceSample(NamedTuple):
    """One image as it is stored in the source: bytes of a file, or pixels [H, W, 3] uint8."""

    name: str
    image: bytes | NDArray[np.uint8]


class Source(Protocol):
    """Labeled images that can be read in any order, also by several processes: it pickles."""

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
class Names:
    """Millions of names in little memory, quickly pickled: one text, and the end of each, [N]."""

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


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    # Asked of millions of names, for which pathlib takes too long.
    return name[name.rfind(".") :].lower() in IMAGE_SUFFIXES


def class_index(text: str) -> int | None:
    """The class number in decimal digits; None for other text."""
    if not (text.isascii() and text.isdigit()):
        return None
    # Converting endless digits is slow and Python refuses it.
    if len(text) > len(str(MAX_NUM_CLASSES)) or int(text) >= MAX_NUM_CLASSES:
        return None
    return int(text)


def numbered_classes(labels: NDArray[np.int64]) -> list[str]:
    """Names "0" to "K-1" of classes that have none; at least one label is needed."""
    return [str(label) for label in range(int(labels.max()) + 1)]


def refuse_labels(path: Path, labels: Path | None) -> None:
    """For sources that say themselves which class an image has.

    Raises:
        SourceError: labels that were given all the same.
    """
    if labels is not None:
        raise SourceError(f"{path} has its own classes, not those of {labels}; leave labels out")
