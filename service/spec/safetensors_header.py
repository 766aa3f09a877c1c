"""The header of a safetensors file: what tensors it has, read without torch and within limits.

The format: the header's length as 8 bytes, little-endian; the header as JSON, an entry for each
tensor and strings under __metadata__; the tensors' bytes without gaps.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from service.spec.tensor_info import COPY_AGAIN, TensorInfo, UnreadableWeightsError

LENGTH_BYTES = 8
# A header of a network with 10,000 tensors has about 1 MB.
MAX_HEADER_BYTES = 16_000_000
MAX_DIMENSIONS = 64
# The format's names of types: torch's name and the size of an element in bits.
DTYPES = {
    "F64": ("float64", 64),
    "F32": ("float32", 32),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "I64": ("int64", 64),
    "I32": ("int32", 32),
    "I16": ("int16", 16),
    "I8": ("int8", 8),
    "U64": ("uint64", 64),
    "U32": ("uint32", 32),
    "U16": ("uint16", 16),
    "U8": ("uint8", 8),
    "BOOL": ("bool", 8),
    "C64": ("complex64", 64),
}


class _HeaderError(ValueError):
    """A header that cannot be read; the message says why."""


class SafetensorsHeader(NamedTuple):
    """``tensors`` by name, in the header's order, which is not that of the network. ``entries``:
    all of the header's JSON. ``num_bytes``: where the tensors' bytes begin.
    """

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    entries: dict[str, Any]
    num_bytes: int


def read_safetensors_header(path: Path) -> SafetensorsHeader:
    """Read and check the header of a regular file; it explains every byte of the file.

    Raises:
        UnreadableWeightsError: it is no safetensors file, or is damaged.
        OSError: it cannot be read.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        num_bytes = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if num_bytes > min(file_bytes - LENGTH_BYTES, MAX_HEADER_BYTES):
            raise UnreadableWeightsError("is damaged, or is not a safetensors file", COPY_AGAIN)
        content = file.read(num_bytes)
    try:
        entries = json.loads(content, object_pairs_hook=_unique)
        if not isinstance(entries, dict):
            raise _HeaderError("is not an object")
        metadata = dict(entries.get("__metadata__", {}))
        if not all(isinstance(value, str) for value in metadata.values()):
            raise _HeaderError("has metadata other than strings")
        tensors = _tensors(entries, file_bytes - LENGTH_BYTES - num_bytes)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        # Messages of other exceptions say nothing about the file.
        cause = f" ({error})" if isinstance(error, _HeaderError) else ""
        wrong = f"is damaged: its header cannot be read{cause}"
        raise UnreadableWeightsError(wrong, COPY_AGAIN) from error
    return SafetensorsHeader(tensors, metadata, entries, LENGTH_BYTES + num_bytes)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise _HeaderError("has a name twice")
    return content


def _is_size(number: object) -> bool:
    return type(number) is int and 0 <= number < 2**63


def _tensors(entries: dict[str, Any], data_bytes: int) -> dict[str, TensorInfo]:
    tensors, ranges = {}, []
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        dtype, num_bits = DTYPES.get(entry["dtype"], (str(entry["dtype"]), 0))
        shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
        if len(shape) > MAX_DIMENSIONS or not all(map(_is_size, (*shape, start, end))):
            raise _HeaderError(f"{name} has sizes that are no counts")
        if num_bits and math.prod(shape) * num_bits != (end - start) * 8:
            raise _HeaderError(f"{name} has another number of bytes than its shape")
        tensors[name] = TensorInfo(dtype, shape)
        ranges.append((start, end))
    position = 0
    for start, end in sorted(ranges):
        if start != position or end < start:
            raise _HeaderError("tensors overlap or leave gaps")
        position = end
    if position != data_bytes:
        raise _HeaderError(f"its tensors have {position} bytes, the file has {data_bytes}")
    return tensors
