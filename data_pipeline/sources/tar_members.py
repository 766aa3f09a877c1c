"""Finds the position of each file in an uncompressed tar."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data_pipeline.sources.skipped import Skipped, is_junk
from data_pipeline.sources.source import SourceError, is_image

COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
COMPRESSED_MAGICS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


class Member(NamedTuple):
    """A file or folder in a tar; ``offset`` and ``size`` of its content are in bytes."""

    name: str
    offset: int
    size: int
    is_folder: bool

    @property
    def parts(self) -> list[str]:
        """Folders and base name; as a sort key, it sorts folder by folder."""
        return self.name.split("/")


def read_members(path: Path, skipped: Skipped) -> list[Member]:
    """All visible files and folders of a tar; counts those that are no part of a source.

    Raises:
        SourceError: a tar that is compressed, damaged or truncated, or holds links to images.
    """
    refuse_compressed(path)
    with path.open("rb") as file:
        return list(members_between(file, path, 0, path.stat().st_size, skipped))


def refuse_compressed(path: Path) -> None:
    """Reject a compressed tar, in which images cannot be read in any order.

    Raises:
        SourceError: a tar that is compressed, by its name or its first bytes.
    """
    with path.open("rb") as file:
        head = file.read(8)
    if path.name.lower().endswith(COMPRESSED_SUFFIXES) or head.startswith(COMPRESSED_MAGICS):
        raise SourceError(f"{path} is compressed; decompress it to a .tar first")


def members_between(
    file: BinaryIO, path: Path, start: int, end: int, skipped: Skipped
) -> Iterator[Member]:
    """Visible members of the tar in ``file`` from byte ``start`` to ``end``; ``path`` names it.

    Raises:
        SourceError: a tar that is damaged or truncated, or holds links to images.
    """
    last, position = "", start
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while True:
                file.seek(position)
                # Iterating over the archive would stop silently at a damaged header, and would
                # keep a kilobyte in memory for each member.
                info = tarfile.TarInfo.fromtarfile(archive)
                last, position = info.name, archive.offset
                if info.size < 0 or (info.isreg() and info.offset_data + info.size > end):
                    raise SourceError(f"{path} ends within its member {last}; copy it again")
                member = _visible(info, path, skipped)
                if member is not None:
                    if not (member.is_folder or is_image(member.name) or is_part(member.name)):
                        skipped.add(member.name)
                    yield member
    except (tarfile.TarError, EOFError, OverflowError) as error:
        file.seek(position)
        # The archive ends with a block of zeros, which is not a header.
        block = file.read(tarfile.BLOCKSIZE)
        if block != bytes(tarfile.BLOCKSIZE) or position + tarfile.BLOCKSIZE > end:
            where = f"after its member {last}" if last else "from its beginning"
            raise SourceError(
                f"{path} is damaged or truncated {where} ({error}); copy it again"
            ) from error


def is_part(name: str) -> bool:
    """Whether a member that is no image is a part of a source: a class, or a tar of one."""
    return name[name.rfind(".") :].lower() in (".cls", ".tar")


def _visible(info: tarfile.TarInfo, path: Path, skipped: Skipped) -> Member | None:
    """The member; None if it is hidden, or is neither a file nor a folder."""
    parts = [part for part in info.name.split("/") if part not in ("", ".")]
    if not parts:
        return None
    if any(is_junk(part) for part in parts):
        skipped.add_junk()
        return None
    name = "/".join(parts)
    if info.isdir():
        return Member(name, 0, 0, True)
    if (info.issym() or info.islnk() or info.issparse()) and is_image(name):
        raise SourceError(
            f"{path} holds {name} only as a link or with holes; "
            "write the tar with --dereference --hard-dereference and without --sparse"
        )
    if not info.isreg() or info.issparse():
        skipped.add(name)
        return None
    return Member(name, info.offset_data, info.size, False)
