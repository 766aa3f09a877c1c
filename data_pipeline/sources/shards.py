"""WebDataset shards: tars with KEY.jpg and KEY.cls, which contains its class index."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from data_pipeline.sources.skipped import Skipped
from data_pipeline.sources.source import (
    SourceError,
    class_index,
    is_image,
    numbered_classes,
)
from data_pipeline.sources.tar_images import TarFiles, TarImages, TarIndex
from data_pipeline.sources.tar_members import Member, read_members

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def is_pattern(path: Path) -> bool:
    """Whether the path names many shards, as in train-{000..127}.tar."""
    return RANGE.search(str(path)) is not None


def expand(path: Path) -> list[Path]:
    """The shards that a pattern names.

    Raises:
        SourceError: a range that is empty, or a shard that does not exist.
    """
    shards: list[Path] = []
    for shard in _expansions(str(path)):
        if not Path(shard).is_file():
            raise SourceError(f"{shard} of {path} does not exist; copy it or correct the range")
        shards.append(Path(shard))
    if not shards:
        raise SourceError(f"{path} has a range that ends before it starts; correct the range")
    return shards


def _expansions(pattern: str) -> Iterator[str]:
    match = RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        head = pattern[: match.start()] + str(number).zfill(len(first))
        yield from _expansions(head + pattern[match.end() :])


def open_shards(path: Path, shards: Sequence[Path]) -> TarImages:
    """The samples of all shards in their order; ``path`` names them in messages.

    Raises:
        SourceError: a shard that is damaged, or has an image without a class, a class without an
            image, or one of them twice; shards without images.
    """
    tars = TarFiles(shards)
    index, skipped = TarIndex(tars), Skipped()
    for number, shard in enumerate(shards):
        images, classes = _by_key(shard, skipped)
        for key in sorted(images.keys() ^ classes.keys()):
            missing = ".cls" if key in images else "image"
            raise SourceError(
                f"{shard} has no {missing} for the key {key}; "
                "write the shard again, or give the tar by itself if it is not a shard"
            )
        for key, image in images.items():
            member = classes[key]
            text = tars.read(number, member.offset, min(member.size, 64))
            label = _class(text, shard, key)
            index.add(number, image, label, f"{label}/{image.name}")
    skipped.log(path)
    source = index.source([])
    if not len(source.labels):
        raise SourceError(f"{path} has no images with classes; give shards of KEY.jpg and KEY.cls")
    return replace(source, classes=numbered_classes(source.labels))


def _by_key(shard: Path, skipped: Skipped) -> tuple[dict[str, Member], dict[str, Member]]:
    """The images of a shard, and the members with their classes, by key.

    WebDataset's keys end at the first dot: a.jpg and a.seg.png are of one sample, whose image is
    a.jpg, or a.image.jpg if that is its only one. Some writers have dots in keys: where a.1.jpg has
    a class a.1.cls, or a.jpg is missing and a.cls too, they end at the last dot.
    """
    images: dict[str, Member] = {}
    classes: dict[str, Member] = {}
    more: list[tuple[str, Member]] = []
    for member in read_members(shard, skipped):
        # Called for millions of names, for which pathlib is too slow.
        stem, _, suffix = member.name.rpartition(".")
        is_class = suffix.lower() == "cls"
        if member.is_folder or not (is_class or is_image(member.name)):
            continue
        if "." in stem.rpartition("/")[2]:
            more.append((stem, member))
        else:
            _add(classes if is_class else images, stem, member, shard)
    own_images = _Stems.of(images, (stem for stem, member in more if is_image(member.name)))
    own_classes = _Stems.of(classes, (stem for stem, member in more if not is_image(member.name)))
    for stem, member in more:
        first = _first(stem)
        if is_image(member.name):
            key = own_classes.key(stem)
            is_extra = first in own_images.plain
        else:
            key = own_images.key(stem)
            is_extra = first in own_classes.plain and key == first
        if is_extra:
            skipped.add(member.name)
        else:
            _add(images if is_image(member.name) else classes, key, member, shard)
    return images, classes


class _Stems(NamedTuple):
    """Names without suffix, of the images or of the classes of a shard; ``first``: up to a dot."""

    plain: frozenset[str]
    dotted: frozenset[str]
    first: frozenset[str]

    @classmethod
    def of(cls, plain: Iterable[str], dotted: Iterable[str]) -> "_Stems":
        """``dotted``: those with dots."""
        stems = frozenset(dotted)
        return cls(frozenset(plain), stems, frozenset(map(_first, stems)))

    def key(self, stem: str) -> str:
        """The key that a member with dots shares with one of these, or else its own stem."""
        first = _first(stem)
        is_shared = stem not in self.dotted and (first in self.plain or first in self.first)
        return first if is_shared else stem


def _first(stem: str) -> str:
    """Up to the first dot, as WebDataset's keys."""
    folder, slash, name = stem.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _add(members: dict[str, Member], key: str, member: Member, shard: Path) -> None:
    if key in members:
        raise SourceError(
            f"{shard} has {member.name} and {members[key].name} of one key, {key}; keep one of them"
        )
    members[key] = member


def _class(text: bytes, shard: Path, key: str) -> int:
    label = class_index(text.decode("ascii", "replace").strip())
    if label is None:
        raise SourceError(
            f"{shard} has {text[:20]!r} as class of the key {key}; write the number of a class"
        )
    return label
