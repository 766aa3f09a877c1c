"""Files that are taken for weights and are something else, seen from their first bytes."""

from pathlib import Path

from service.spec.tensor_info import COPY_AGAIN, UnreadableWeightsError

HEAD_BYTES = 512
TAR_MAGIC = slice(257, 262)
_KINDS = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file", "run git lfs pull"),
    (b"<", "is a page of a website, not the file", "download the file that the page links to"),
    (b"\x1f\x8b", "is compressed by gzip", "decompress it"),
    (b"\xfd7zXZ", "is compressed by xz", "decompress it"),
    (b"BZh", "is compressed by bzip2", "decompress it"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd", "decompress it"),
    (b"\x89HDF", "is an HDF5 file, of another framework", "convert it to safetensors"),
)


def refuse_other_kinds(path: Path) -> None:
    """Refuse a regular file whose first bytes say what it is, other than weights.

    Raises:
        UnreadableWeightsError: saying what it is.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise UnreadableWeightsError("is empty", COPY_AGAIN)
    if head[TAR_MAGIC] == b"ustar":
        raise UnreadableWeightsError("is a tar archive", "unpack it, and give the file in it")
    for magic, wrong, remedy in _KINDS:
        if head.lstrip().startswith(magic):
            raise UnreadableWeightsError(wrong, remedy)
