"""A local file of weights in either format: its tensors by name, read without torch."""

import stat
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from service.spec.inert_pickle import Record
from service.spec.safetensors_header import COPY_AGAIN, LENGTH_BYTES, read_safetensors_header
from service.spec.tensor_info import TensorInfo, UnreadableWeightsError
from service.spec.torch_file import SAVE_AGAIN, StorageRange, read_torch_file

# Deeper are the states of optimizers only.
MAX_DEPTH = 6
MAX_ENTRIES = 500_000


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
    def is_safetensors(self) -> bool:
        """Whether it is a safetensors file, which does not keep the order of tensors."""
        return self.storages is None


def read_weights_file(path: Path) -> WeightsFile:
    """Read what tensors a file has; its format is seen from its content, not from its name.

    Raises:
        UnreadableWeightsError: it is no regular file, is damaged, or has no tensors by name.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableWeightsError("is no regular file", "give the path of a weights file")
        with path.open("rb") as file:
            start = file.read(LENGTH_BYTES + 1)
        if start[LENGTH_BYTES:] == b"{":
            header = read_safetensors_header(path)
            names = {"": list(header.tensors)}
            return WeightsFile(path, header.tensors, names, header.metadata, None)
        if path.suffix.lower() == ".safetensors":
            raise UnreadableWeightsError("is damaged, or no safetensors file", COPY_AGAIN)
        content, storages = read_torch_file(path)
    except OSError as error:
        wrong = f"cannot be read ({error.strerror or error})"
        raise UnreadableWeightsError(wrong, "give the path of a weights file") from error
    tensors, containers = _flatten(content)
    if not tensors:
        raise UnreadableWeightsError(f"has no tensors by name{_instead(content)}", SAVE_AGAIN)
    return WeightsFile(path, tensors, containers, {}, storages)


def _flatten(content: Any) -> tuple[dict[str, TensorInfo], dict[str, list[str]]]:  # noqa: ANN401
    """All tensors within dictionaries and lists, by their names; the names by dictionary."""
    tensors: dict[str, TensorInfo] = {}
    containers: dict[str, list[str]] = {}
    pending = deque([("", content)] if isinstance(content, dict | list) else [])
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
            elif isinstance(value, dict | list) and prefix.count(".") < MAX_DEPTH:
                pending.append((f"{prefix}{key}.", value))
    return tensors, containers


def _instead(content: Any) -> str:  # noqa: ANN401 - any structure
    """What a file without tensors has, in brackets."""
    values = [content, *(content.values() if isinstance(content, dict) else ())]
    kinds = [value.path for value in values if isinstance(value, Record)]
    return f" (but an object of the class {kinds[0]})" if kinds else ""
