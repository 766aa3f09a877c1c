"""A local file of weights in either format: its tensors by name, read without torch."""

import stat
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from service.spec.file_kinds import refuse_other_kinds
from service.spec.inert_pickle import Record
from service.spec.safetensors_header import LENGTH_BYTES, read_safetensors_header
from service.spec.tensor_info import COPY_AGAIN, TensorInfo, UnreadableWeightsError
from service.spec.torch_file import SAVE_AGAIN, StorageRange, read_torch_file

# Deeper are the states of optimizers only.
MAX_DEPTH = 6
MAX_ENTRIES = 500_000
MAX_TENSORS = 50_000
MAX_NAME_LENGTH = 300
# Not their subclasses: a TensorInfo is a tuple too.
_CONTAINERS = (dict, list, tuple)


class WeightsFile(NamedTuple):
    """``tensors``: by their names, with those of the dictionaries and lists that contain them in
    front: state_dict.conv1.weight. ``containers``: the names of those dictionaries with a final
    dot, "" for the outermost, and the tensors that are directly in each, in order. ``metadata``:
    strings of a safetensors file. ``storages``: see ``TorchFile``; None for safetensors.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    containers: Mapping[str, Sequence[str]]
    metadata: Mapping[str, str]
    storages: Mapping[str, StorageRange] | None

    @property
    def container_of(self) -> dict[str, str]:
        """By tensor: the name of the dictionary that it is directly in."""
        return {name: container for container, names in self.containers.items() for name in names}

    @property
    def is_safetensors(self) -> bool:
        """Whether it is a safetensors file, which does not keep the order of tensors."""
        return self.storages is None


def is_safetensors(path: Path) -> bool:
    """Whether a regular file begins as a safetensors file does: with a length and an object.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(LENGTH_BYTES + 1)[LENGTH_BYTES:] == b"{"


def read_weights_file(path: Path) -> WeightsFile:
    """Read what tensors a regular file has; its format is seen from its content, not from its name.

    Raises:
        UnreadableWeightsError: it is another kind of file, is damaged, or has no tensors by name.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableWeightsError("is not a regular file", "give the path of a weights file")
        if is_safetensors(path):
            file = _read_safetensors(path)
        else:
            refuse_other_kinds(path)
            file = _read_torch(path)
    except OSError as error:
        wrong = f"cannot be read ({error.strerror or error})"
        raise UnreadableWeightsError(wrong, "give the path of a weights file") from error
    if len(file.tensors) > MAX_TENSORS or max(map(len, file.tensors), default=0) > MAX_NAME_LENGTH:
        raise UnreadableWeightsError(
            "has too many or too long names of tensors", "save the network's weights alone"
        )
    return file


def _read_safetensors(path: Path) -> WeightsFile:
    header = read_safetensors_header(path)
    if not header.tensors:
        raise UnreadableWeightsError("has no tensors", COPY_AGAIN)
    names = {"": list(header.tensors)}
    return WeightsFile(path, header.tensors, names, header.metadata, None)


def _read_torch(path: Path) -> WeightsFile:
    content, storages = read_torch_file(path)
    tensors, containers = _flatten(content)
    if not tensors:
        raise UnreadableWeightsError(f"has no tensors by name{_instead(content)}", SAVE_AGAIN)
    return WeightsFile(path, tensors, containers, {}, storages)


def _flatten(content: Any) -> tuple[dict[str, TensorInfo], dict[str, list[str]]]:  # noqa: ANN401
    """All tensors within dictionaries and lists, by their names; the names by dictionary."""
    tensors: dict[str, TensorInfo] = {}
    containers: dict[str, list[str]] = {}
    pending = deque([("", content)] if type(content) in _CONTAINERS else [])
    num_entries = 0
    while pending:
        prefix, node = pending.popleft()
        items = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
        num_entries += len(items)
        if num_entries > MAX_ENTRIES:
            raise UnreadableWeightsError("has too many entries", SAVE_AGAIN)
        for key, value in items:
            if isinstance(value, TensorInfo):
                # A tensor in a list has no name.
                if isinstance(node, dict):
                    tensors[f"{prefix}{key}"] = value
                    containers.setdefault(prefix, []).append(f"{prefix}{key}")
            elif type(value) in _CONTAINERS and prefix.count(".") < MAX_DEPTH:
                pending.append((f"{prefix}{key}.", value))
    return tensors, containers


def _instead(content: Any) -> str:  # noqa: ANN401 - any structure
    """What a file without tensors has, in brackets."""
    values = [content, *(content.values() if isinstance(content, dict) else ())]
    kinds = [value.path for value in values if isinstance(value, Record)]
    return f" (but an object of the class {kinds[0]})" if kinds else ""
