"""The tensors in a file of torch.save, found without torch and without executing anything.

Such a file is a zip archive with a pickle and an entry for each storage; before torch 1.6 it was a
series of pickles with the storages behind them. Sizes are checked before anything is unpacked.
"""

import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from service.spec.inert_pickle import (
    MAX_PICKLE_BYTES,
    Name,
    PickleError,
    Record,
    TooLongError,
    read_pickle,
)
from service.spec.tensor_info import COPY_AGAIN, Place, TensorInfo, UnreadableWeightsError

SAVE_AGAIN = "save model.state_dict() alone with torch.save, where it was made"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
ZIP_MAGIC = b"PK\x03\x04"
# A directory of 100,000 entries has about this size.
MAX_DIRECTORY_BYTES = 8_000_000
ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "complex64": 8,
    "complex128": 16,
}
STORAGES = {
    "Float": "float32",
    "Double": "float64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}
"""Classes of storages without their suffix, and the type of their elements."""

OTHER_TENSORS = {
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_qtensor": "quantized",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "without values",
}


# RuntimeError: an entry is encrypted.
_DAMAGE = (
    *(ValueError, TypeError, LookupError, RuntimeError, EOFError, OverflowError),
    *(zipfile.BadZipFile, struct.error),
)


class StorageRange(NamedTuple):
    """Where the bytes of a storage are in the file."""

    position: int
    num_bytes: int


class TorchFile(NamedTuple):
    """``content``: what was saved, with a ``TensorInfo`` for each tensor and a ``Record`` for each
    other object. ``storages``: by the names in the tensors' places.
    """

    content: Any
    storages: Mapping[str, StorageRange]


class _Storage(NamedTuple):
    key: str
    dtype: str
    offset: int
    num_bytes: int


def read_torch_file(path: Path) -> TorchFile:
    """Read what a regular file of torch.save contains, but for the tensors' values.

    Raises:
        UnreadableWeightsError: it is no such file, is damaged, or would unpack to more than it is.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            is_archive = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
            file.seek(0)
            return _read_archive(file) if is_archive else _read_legacy(file)
    except TooLongError as error:
        raise UnreadableWeightsError(f"{error}, too long for weights", SAVE_AGAIN) from error
    except UnreadableWeightsError:
        raise
    except _DAMAGE as error:
        cause = f" (it {error})" if isinstance(error, PickleError) else ""
        wrong = f"is damaged, or is not a file of torch.save{cause}"
        raise UnreadableWeightsError(wrong, f"{COPY_AGAIN}, or {SAVE_AGAIN}") from error


def _read_archive(file: IO[bytes]) -> TorchFile:
    file_bytes = os.fstat(file.fileno()).st_size
    if _directory_bytes(file, file_bytes) > MAX_DIRECTORY_BYTES:
        raise PickleError("has too large a directory")
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        root = next((n.removesuffix("data.pkl") for n in entries if n.endswith("/data.pkl")), None)
        if root is None:
            raise UnreadableWeightsError(
                "is a zip archive without a state dict", "unpack it, and give the file in it"
            )
        if f"{root}constants.pkl" in entries:
            remedy = "save torch.jit.load(path).state_dict() with torch.save"
            raise UnreadableWeightsError("is a TorchScript archive", remedy)
        total_bytes = sum(entry.file_size for entry in archive.infolist())
        if total_bytes > file_bytes or any(entry.compress_type for entry in entries.values()):
            wrong = f"is compressed: its {file_bytes:,} bytes unpack to {total_bytes:,}"
            raise UnreadableWeightsError(wrong, SAVE_AGAIN)
        if (order := entries.get(f"{root}byteorder")) and archive.read(order) != b"little":
            raise PickleError("has big-endian numbers")
        if entries[f"{root}data.pkl"].file_size > MAX_PICKLE_BYTES:
            raise TooLongError(f"has a pickle of more than {MAX_PICKLE_BYTES:,} bytes")
        storages = {
            name.removeprefix(f"{root}data/"): StorageRange(_data_start(file, entry), size)
            for name, entry in entries.items()
            if name.startswith(f"{root}data/") and (size := entry.file_size) >= 0
        }
        with archive.open(f"{root}data.pkl") as pickle:
            content = read_pickle(pickle, _make, _storage_of)
    return TorchFile(content, storages)


def _directory_bytes(file: IO[bytes], file_bytes: int) -> int:
    """Size of a zip archive's directory, as zipfile will read it."""
    tail_start = max(0, file_bytes - (1 << 16) - 22)
    file.seek(tail_start)
    tail = file.read()
    found = len(tail) - 22 if tail[-22:].startswith(b"PK\5\6") else tail.rfind(b"PK\5\6")
    if found < 0:
        raise PickleError("has no end")
    (num_bytes,) = struct.unpack_from("<L", tail, found + 12)
    # Large archives have a second record, and the position of it in a third.
    if found >= 76 and tail[found - 20 : found - 16] == b"PK\6\7":
        (num_bytes,) = struct.unpack_from("<Q", tail, found - 76 + 40)
    return int(num_bytes)


def _data_start(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Where an entry's data begins: behind a header of its own, whose length varies."""
    file.seek(entry.header_offset)
    header = file.read(30)
    name_bytes, extra_bytes = struct.unpack_from("<HH", header, 26)
    return entry.header_offset + len(header) + int(name_bytes) + int(extra_bytes)


def _read_legacy(file: IO[bytes]) -> TorchFile:
    claims: dict[str, _Storage] = {}

    def persistent(reference: Any) -> Any:  # noqa: ANN401 - any pickled value
        # torch.save of a whole model refers to its class like this, with the source code.
        if reference[0] == "module":
            return reference[1]
        storage = _storage_of(reference)
        claims[storage.key] = storage
        return storage

    if read_pickle(file, _make, _storage_of) != LEGACY_MAGIC:
        raise PickleError("begins with something else")
    for _ in ("protocol", "system"):
        read_pickle(file, _make, _storage_of)
    content = read_pickle(file, _make, persistent)
    keys = read_pickle(file, _make, _storage_of)
    file_bytes = os.fstat(file.fileno()).st_size
    storages = {}
    for key in map(str, keys):
        if key not in claims:
            raise PickleError("has numbers that belong to no tensor")
        (num_elements,) = struct.unpack("<q", file.read(8))
        num_bytes = num_elements * ITEM_BYTES[claims[key].dtype]
        position = file.tell()
        if num_bytes < 0 or position + num_bytes > file_bytes:
            raise PickleError("ends too early")
        storages[key] = StorageRange(position, num_bytes)
        file.seek(position + num_bytes)
    return TorchFile(content, storages)


def _storage_of(reference: Any) -> _Storage:  # noqa: ANN401 - any pickled value
    """What a reference to a storage says: ("storage", its class, name, device, elements, view)."""
    kind, storage_class, key, _, num_elements, *view = reference
    if kind != "storage" or not isinstance(storage_class, Name):
        raise PickleError("refers to something other than a storage")
    if type(num_elements) is not int:
        raise PickleError("has a storage without a size")
    name = storage_class.path.rpartition(".")[2].removesuffix("Storage")
    dtype = STORAGES.get(name, name)
    offset = view[0][1] if view and view[0] is not None else 0
    return _Storage(str(key), dtype, offset, num_elements * ITEM_BYTES.get(dtype, 1))


def _make(path: str, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401 - any structure
    """What a call in the pickle makes: a tensor, a dictionary, or something that is not needed."""
    module, _, name = path.rpartition(".")
    if path in ("collections.OrderedDict", "collections.defaultdict"):
        pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
        return {key: value for key, value in pairs if isinstance(key, str | int)}
    if path == "torch.Size":
        return tuple(arguments[0])
    if not module.startswith("torch._"):
        return Record(path)
    if name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
        return arguments[0]
    if name == "_rebuild_from_type_v2":
        return _make(arguments[0].path, tuple(arguments[2]))
    if name in OTHER_TENSORS:
        return TensorInfo(OTHER_TENSORS[name], ())
    if name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        storage, offset, shape, stride = arguments[:4]
        if not isinstance(storage, _Storage):
            raise PickleError("was not written by torch.save, but by pickle")
        if not all(type(number) is int for number in (offset, *shape, *stride)):
            raise PickleError("has a tensor whose sizes are no numbers")
        place = Place(storage.key, storage.offset + offset, tuple(stride))
        return TensorInfo(storage.dtype, tuple(shape), place)
    # Functions that newer torch versions add, and those of tensor subclasses.
    return TensorInfo("of a special type", ()) if name.startswith("_rebuild") else Record(path)
