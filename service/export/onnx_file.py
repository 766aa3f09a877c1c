"""Networks as ONNX: one file with weights and metadata, and onnxruntime as a function."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from service.export.comparison import Classifier, Floats
from service.export.metadata import INPUT_NAME, OUTPUT_NAME
from service.export.network import DYNAMIC_SHAPES, not_exportable, without_warnings
from service.export.options import ExportOptions
from service.spec.errors import BadInputError, Problem

# A file of protobuf cannot be larger; ONNX would put the weights into files beside it.
MAX_BYTES = 2**31 - 1
ERRORS_ONLY = 3


def check_size(network: nn.Module) -> None:
    """Check that the weights fit into one file.

    Raises:
        BadInputError: they do not.
    """
    tensors = network.state_dict().values()
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if num_bytes >= MAX_BYTES:
        wrong = f"is onnx, whose files have at most 2 GiB, and the weights {num_bytes / 2**30:.1f}"
        raise BadInputError("arguments", [Problem("--format", wrong, "use pt2 or safetensors")])


def write_onnx(
    program: ExportedProgram,
    path: Path,
    architecture: str,
    options: ExportOptions,
    metadata: Mapping[str, str],
) -> None:
    """Write a traced network, with the input ``images`` and the output ``logits``.

    Raises:
        BadInputError: torch cannot export this network to ONNX, or not to this opset.
        OSError: the storage fails.
    """
    import onnx

    try:
        model = _as_onnx(program, options.opset)
        onnx.checker.check_model(model)
    except Exception as error:
        # Of many types, none of which torch documents.
        raise not_exportable(architecture, options, error) from error
    # What the modules and the graph were in torch, three times the size of a small network.
    for node in model.graph.node:
        del node.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))
    path.write_bytes(model.SerializeToString())


def _as_onnx(program: ExportedProgram, opset: int | None) -> Any:  # noqa: ANN401 - a ModelProto
    with without_warnings():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=DYNAMIC_SHAPES,
            verbose=False,
        )
    assert exported is not None, "it is returned where no path is given"
    model = exported.model_proto
    if opset not in (None, found := opset_of(model)):
        raise ValueError(f"it becomes one of opset {found}")
    return model


def opset_of(model: Any) -> int:  # noqa: ANN401 - a ModelProto
    """The version of ONNX's own operations that a model uses."""
    return next(each.version for each in model.opset_import if each.domain == "")


def set_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Replace the ``metadata_props`` of an ONNX file.

    Raises:
        OSError: the storage fails.
    """
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def onnx_classifier(path: Path) -> Classifier:
    """An ONNX file as a function, run by onnxruntime on the CPUs of this process."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def classify(images: Floats) -> Floats:
        return session.run([OUTPUT_NAME], {INPUT_NAME: images})[0]

    return classify
