"""WebDataset shards: tars with KEY.jpg and KEY.cls, which contains its class index."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

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
    a.jpg. Where a sample has none of its own, as with a.1.jpg alone, keys end at the last dot.
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
    own = set(images)
    for stem, member in more:
        folder, slash, name = stem.rpartition("/")
        if folder + slash + name.partition(".")[0] not in own:
            _add(images if is_image(member.name) else classes, stem, member, shard)
        else:
            skipped.add(member.name)
    return images, classes


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
