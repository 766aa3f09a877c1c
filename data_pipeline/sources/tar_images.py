"""Images that are read from uncompressed tars without extraction."""

import os
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.sources.source import Names, SourceError, SourceSample, is_image
from data_pipeline.sources.tar_members import Member

# Far below the usual limit of 1,024 files for each process.
MAX_OPEN_TARS = 128


class TarFiles:
    """Tars that are read at known places, also by several threads.

    Each process opens them itself, when it first reads.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = tuple(paths)
        self._opened: OrderedDict[int, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["TarFiles"], tuple[tuple[Path, ...]]]:
        """Descriptors mean nothing to another process."""
        return TarFiles, (self.paths,)

    def read(self, number: int, offset: int, size: int) -> bytes:
        """``size`` bytes of a tar from ``offset``.

        Raises:
            SourceError: a tar that went away or is shorter than when it was opened.
        """
        path = self.paths[number]
        try:
            # Held until it is read: another thread may make it give way to a further tar, and
            # its number would then be that of another file.
            descriptor = self._descriptor(number)
            data = os.pread(descriptor.number, size, offset)
        except OSError as error:
            raise SourceError(
                f"{path} cannot be read ({error.strerror}); put it back and start again"
            ) from error
        if len(data) != size:
            raise SourceError(f"{path} became shorter meanwhile; copy it again and start again")
        return data

    def _descriptor(self, number: int) -> "_Descriptor":
        """Open the tar or take it as opened before; the tar unused for longest is closed."""
        with self._lock:
            descriptor = self._opened.pop(number, None) or _Descriptor(self.paths[number])
            self._opened[number] = descriptor
            if len(self._opened) > MAX_OPEN_TARS:
                self._opened.popitem(last=False)
            return descriptor


class _Descriptor:
    """An open file that is closed when nobody uses it any more."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


@dataclass(frozen=True)
class TarImages:
    """Images in one or more tars: in which (``tar_numbers``), where, and how they are called."""

    classes: Sequence[str]
    labels: NDArray[np.int64]
    tars: TarFiles
    tar_numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    names: Names

    def read(self, index: int) -> SourceSample:
        """The member's bytes as they are.

        Raises:
            SourceError: a tar that changed since it was opened.
        """
        number = int(self.tar_numbers[index])
        data = self.tars.read(number, int(self.offsets[index]), int(self.sizes[index]))
        return SourceSample(f"{self.tars.paths[number]}: {self.names[index]}", data)


class TarIndex:
    """Grows image by image into a source."""

    def __init__(self, tars: TarFiles) -> None:
        self._tars = tars
        # Tar, offset, size and label of one image after the other.
        self._numbers = array("q")
        self._names: list[str] = []

    def add(self, tar_number: int, member: Member, label: int) -> None:
        """Take up an image."""
        self._numbers.extend((tar_number, member.offset, member.size, label))
        self._names.append(member.name)

    def source(self, classes: Sequence[str]) -> TarImages:
        """All images so far."""
        numbers = np.array(self._numbers, np.int64).reshape(-1, 4)
        tar_numbers, offsets, sizes, labels = np.ascontiguousarray(numbers.T)
        return TarImages(
            classes, labels, self._tars, tar_numbers, offsets, sizes, Names.of(self._names)
        )


def in_order(path: Path, members: Iterable[Member]) -> list[Member]:
    """Members of the tar ``path`` in the order of a walk through folders.

    Raises:
        SourceError: two members of one name.
    """
    ordered = sorted(members, key=lambda member: member.parts)
    for first, second in pairwise(ordered):
        if first.name == second.name:
            raise SourceError(f"{path} holds {first.name} twice; write the tar again")
    return ordered


def images_among(members: Iterable[Member]) -> Iterator[Member]:
    """The members that are images by their names."""
    return (member for member in members if not member.is_folder and is_image(member.name))
