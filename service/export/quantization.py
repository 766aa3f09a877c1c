"""Float32 ONNX to int8: QDQ by onnxruntime, with ranges from real images."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.export.comparison import Floats
from service.export.metadata import INPUT_NAME
from service.export.network import without_warnings

NUM_CALIBRATED = 512
METHOD = "MinMax"
"""How ranges of activations follow from the images, of onnxruntime's CalibrationMethod."""
WITH_WEIGHTS = frozenset({"Conv", "Gemm", "MatMul"})


def quantize(source: Path, path: Path, batches: Iterator[Floats]) -> None:
    """Quantize a float32 network: int8 activations, and int8 weights per channel.

    The file has pairs of QuantizeLinear and DequantizeLinear (QDQ), which a runtime fuses into
    operations on integers. Ranges are the smallest and the largest value of each activation over
    the ``batches`` [B, 3, H, W]. What reads the images, up to the first operation with weights,
    stays in float32, see ``nodes_of_the_input``.

    Raises:
        OSError: the storage fails.
    """
    # Imported here: they are extras of the package.
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The batches as onnxruntime reads them: one after the other, then None."""

        def get_next(self) -> dict[str, Floats] | None:
            images = next(batches, None)
            return None if images is None else {INPUT_NAME: images}

    with tempfile.TemporaryDirectory() as folder, without_warnings():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared))
        quantize_static(
            str(prepared),
            str(path),
            Reader(),
            nodes_to_exclude=nodes_of_the_input(onnx.load(prepared).graph),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[METHOD],
        )


def nodes_of_the_input(graph: Any) -> list[str]:  # noqa: ANN401 - a GraphProto
    """Names of the nodes that compute with the images' own values, with the first layer's.

    An image has 256 values of each channel, and int8 has as many: a scale that does not fall on
    them merges some, and one that falls between them rounds by the last bit of the normalization.
    """
    images, names = {INPUT_NAME}, []
    # Nodes of ONNX are in topological order.
    for node in graph.node:
        # The number of images, by which a transformer repeats its class token, is no pixel.
        if images.isdisjoint(node.input) or node.op_type == "Shape":
            continue
        assert node.name, "the exporter names all nodes, and nodes are excluded by their names"
        names.append(node.name)
        if node.op_type not in WITH_WEIGHTS:
            images.update(node.output)
    return names
