"""Three lines of Python that run an exported file."""

from service.evaluate.source import FoundModel
from service.export.metadata import INPUT_NAME, OUTPUT_NAME
from service.export.options import PT2, SAFETENSORS, ExportOptions


def usage(found: FoundModel, options: ExportOptions) -> str:
    """Lines that classify one black image with ``options.out``; they need no file but this one."""
    path, size = str(options.out.absolute()), found.preprocessing.crop_size
    shape = f"(1, 3, {size}, {size})"
    kind = "RGB from 0 to 1" if options.normalizes else "RGB from 0 to 1, then (x - mean) / std"
    if options.is_onnx:
        return (
            "import numpy as np, onnxruntime\n"
            f"images = np.zeros({shape}, np.float32)  # {kind}\n"
            f"logits = onnxruntime.InferenceSession({path!r})"
            f".run([{OUTPUT_NAME!r}], {{{INPUT_NAME!r}: images}})[0]"
        )
    if options.format == PT2:
        return (
            "import torch\n"
            f"images = torch.zeros({shape})  # {kind}\n"
            f"logits = torch.export.load({path!r}).module()(images)"
        )
    assert options.format == SAFETENSORS
    return (
        "import pathlib, torch; from service.models.build import load_network\n"
        f"images = torch.zeros({shape})  # {kind}\n"
        f"logits = load_network(pathlib.Path({path!r}), {found.architecture!r}, "
        f"{found.num_classes})(images)"
    )
