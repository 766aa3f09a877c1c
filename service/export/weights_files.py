"""Networks as pt2 and as safetensors: how they are written, and loaded again."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.export import ExportedProgram

from service.evaluate.source import FoundModel
from service.export.comparison import Classifier, Floats
from service.models.build import load_network

METADATA_NAME = "metadata.json"
"""Of the extra files of a pt2 file."""


def write_pt2(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a traced network, with the metadata as an extra file of JSON.

    Raises:
        OSError: the storage fails.
    """
    extra_files = {METADATA_NAME: json.dumps(dict(metadata), ensure_ascii=False, indent=1)}
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files=extra_files)


def pt2_classifier(path: Path) -> Classifier:
    """A pt2 file as a function, run by torch on a CPU."""
    with path.open("rb") as file:
        return _classifier(torch.export.load(file).module())


def write_safetensors(network: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a network's weights with the metadata in the header.

    Raises:
        OSError: the storage fails.
    """
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt", **metadata})


def safetensors_classifier(path: Path, found: FoundModel) -> Classifier:
    """The network of a safetensors file, loaded as a student's is, as a function."""
    return _classifier(load_network(path, found.architecture, found.num_classes))


def _classifier(network: nn.Module) -> Classifier:
    def classify(images: Floats) -> Floats:
        with torch.inference_mode():
            return network(torch.from_numpy(images)).numpy()

    return classify
