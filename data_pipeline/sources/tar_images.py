"""Reads images from uncompressed tars without extraction."""

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

from data_pipeline.sources.source import Names, SourceError, SourceSample, is_image, name_key
from data_pipeline.sources.tar_members import Member

# Far below the usual limit of 1,024 files for each process.
MAX_OPEN_TARS = 128


class TarFiles:
    """Tars that are read at known offsets, by several threads.

    Each process opens a tar when it first reads it.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = tuple(paths)
        self._opened: OrderedDict[int, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["TarFiles"], tuple[tuple[Path, ...]]]:
        """Pickle only the paths: descriptors are not valid in another process."""
        return TarFiles, (self.paths,)

    def read(self, number: int, offset: int, size: int) -> bytes:
        """``size`` bytes of the tar ``number`` from ``offset``.

        Raises:
            SourceError: a tar that cannot be read or is shorter than when it was opened.
        """
        path = self.paths[number]
        try:
            # The reference keeps the file open while it is read. Another thread may evict it, and
            # its number could then belong to another file.
            descriptor = self._descriptor(number)
            data = os.pread(descriptor.number, size, offset)
        except OSError as error:
            raise SourceError(
                f"{path} cannot be read ({error.strerror}); restore it and start again"
            ) from error
        if len(data) != size:
            raise SourceError(f"{path} became shorter while it was read; copy it and start again")
        return data

    def _descriptor(self, number: int) -> "_Descriptor":
        """Open the tar if it is not open; the least recently used tar is closed."""
        with self._lock:
            descriptor = self._opened.pop(number, None) or _Descriptor(self.paths[number])
            self._opened[number] = descriptor
            if len(self._opened) > MAX_OPEN_TARS:
                self._opened.popitem(last=False)
            return descriptor


class _Descriptor:
    """An open file that is closed with its last reference."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


@dataclass(frozen=True)
class TarImages:
    """Images in tars: tar, ``offsets`` and ``sizes`` in bytes, name and label of each, [N]."""

    classes: Sequence[str]
    labels: NDArray[np.int64]
    keys: NDArray[np.uint64]
    tars: TarFiles
    tar_numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    names: Names

    def read(self, index: int) -> SourceSample:
        """The member's bytes, unchanged.

        Raises:
            SourceError: a tar that changed since it was opened.
        """
        number = int(self.tar_numbers[index])
        data = self.tars.read(number, int(self.offsets[index]), int(self.sizes[index]))
        return SourceSample(f"{self.tars.paths[number]}: {self.names[index]}", data)


class TarIndex:
    """Collects the positions of images for a source."""

    def __init__(self, tars: TarFiles) -> None:
        self._tars = tars
        # Four numbers for each image: tar, offset, size and label.
        self._numbers = array("q")
        self._names: list[str] = []
        self._keys = array("Q")

    def add(self, tar_number: int, member: Member, label: int, name_in_class: str) -> None:
        """Add an image; ``name_in_class`` is what ``name_key`` takes."""
        self._numbers.extend((tar_number, member.offset, member.size, label))
        self._names.append(member.name)
        self._keys.append(name_key(name_in_class))

    def source(self, classes: Sequence[str]) -> TarImages:
        """All images so far."""
        numbers = np.array(self._numbers, np.int64).reshape(-1, 4)
        tar_numbers, offsets, sizes, labels = np.ascontiguousarray(numbers.T)
        keys, names = np.array(self._keys, np.uint64), Names.of(self._names)
        return TarImages(classes, labels, keys, self._tars, tar_numbers, offsets, sizes, names)


def in_order(path: Path, members: Iterable[Member]) -> list[Member]:
    """Members of the tar ``path``, sorted folder by folder.

    Raises:
        SourceError: two members with the same name.
    """
    ordered = sorted(members, key=lambda member: member.parts)
    for first, second in pairwise(ordered):
        if first.name == second.name:
            raise SourceError(f"{path} holds {first.name} twice; write the tar again")
    return ordered


def images_among(members: Iterable[Member]) -> Iterator[Member]:
    """The members that are images by their names."""
    return (member for member in members if not member.is_folder and is_image(member.name))
