"""Tensors read from a file of weights whose structure is known."""

from collections.abc import Mapping
from typing import IO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from service.spec.tensor_info import COPY_AGAIN, TensorInfo, UnreadableWeightsError
from service.spec.torch_file import ITEM_BYTES, SAVE_AGAIN, StorageRange
from service.spec.weights_file import WeightsFile


def read_tensors(file: WeightsFile, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors that a file has under the values of ``names``, by the keys of ``names``.

    Their shapes are those of a network: nothing larger is allocated.

    Raises:
        UnreadableWeightsError: the file is damaged.
    """
    try:
        if file.storages is None:
            with safe_open(file.path, "pt") as opened:
                return {key: opened.get_tensor(name) for key, name in names.items()}
        with file.path.open("rb") as stream:
            # A storage may be shared, and may be larger than its tensors.
            return {
                key: _cut(stream, file.tensors[name], file.storages) for key, name in names.items()
            }
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        remedy = COPY_AGAIN if file.is_safetensors else SAVE_AGAIN
        raise UnreadableWeightsError(f"cannot be read ({error})", remedy) from error


def _cut(stream: IO[bytes], info: TensorInfo, storages: Mapping[str, StorageRange]) -> Tensor:
    """A tensor from its part of a storage, in memory of its own."""
    storage = storages.get(info.place.storage) if info.place else None
    if info.place is None or storage is None or len(info.place.stride) != len(info.shape):
        raise ValueError(f"a tensor that is {info.dtype}")
    item_bytes, (_, offset, stride) = ITEM_BYTES[info.dtype], info.place
    if min((offset, *stride, *info.shape), default=0) < 0:
        raise ValueError("a tensor of a negative size")
    last = sum((size - 1) * step for size, step in zip(info.shape, stride, strict=True))
    num_bytes = 0 if 0 in info.shape else (last + 1) * item_bytes
    if offset * item_bytes + num_bytes > storage.num_bytes:
        raise ValueError("a tensor beyond its storage")
    dtype = getattr(torch, info.dtype)
    if num_bytes == 0:
        return torch.empty(info.shape, dtype=dtype)
    stream.seek(storage.position + offset * item_bytes)
    content = bytearray(stream.read(num_bytes))
    if len(content) < num_bytes:
        raise ValueError("it ends too early")
    values = torch.frombuffer(content, dtype=dtype)
    return values.as_strided(info.shape, stride).clone(memory_format=torch.contiguous_format)
