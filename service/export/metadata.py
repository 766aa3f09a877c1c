"""What an exported file says about itself: strings by name, which every format can hold."""

import json
from typing import Any

from service.evaluate.preprocessing import BILINEAR
from service.evaluate.source import FoundModel
from service.export.options import INSIDE, OUTSIDE
from service.spec.model_names import AUXILIARY_HEADS
from service.spec.network_variants import TRANSFORM_KEY

INPUT_NAME, OUTPUT_NAME = "images", "logits"


def export_metadata(found: FoundModel, *, normalizes: bool) -> dict[str, str]:
    """The metadata of an export; what is not text is JSON, and what is not known is absent.

    The names are those of a student's card (``service.run.student_card``), so that the weights of
    an exported safetensors file are found like a student's. ``normalizes``: whether the file's
    network normalizes its input itself. Sizes are in pixels. ``interpolation`` is that with which
    the network was published; the check and the accuracies of int8 resize with ``checked_with``.
    """
    resize_size, crop_size, normalization = found.preprocessing
    values: dict[str, Any] = {
        "architecture": found.architecture,
        "origin": found.origin,
        "weights_sha256": found.weights_sha256,
        "spec_hash": None if found.spec is None else found.spec.content_hash(),
        "num_classes": found.num_classes,
        "classes": found.classes,
        "class_names": found.class_names,
        "resize_shorter_side": resize_size,
        "center_crop": crop_size,
        "interpolation": found.interpolation,
        "checked_with": BILINEAR,
        "antialias": True,
        "scale": "pixels / 255, RGB",
        "normalization": INSIDE if normalizes else OUTSIDE,
        **normalization.model_dump(),
        "input": f"{INPUT_NAME}: float32 [N, 3, {crop_size}, {crop_size}], RGB, "
        + ("from 0 to 1" if normalizes else "(x - mean) / std of x from 0 to 1"),
        "output": f"{OUTPUT_NAME}: float32 [N, {found.num_classes}]",
    }
    if found.architecture in AUXILIARY_HEADS:
        values[TRANSFORM_KEY] = bool(found.network.transform_input)
    return {name: as_text(value) for name, value in values.items() if value is not None}


def as_text(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """A text as it is, another value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
