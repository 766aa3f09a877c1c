"""int8 as an export: calibrated on real images, and refused if it loses too much of float32."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.evaluate.source import FoundModel
from service.export.comparison import Floats, network_input
from service.export.images import BATCH_SIZE, Images
from service.export.metadata import export_metadata
from service.export.onnx_file import onnx_classifier, set_metadata
from service.export.options import ExportOptions, FailedCheckError
from service.export.quantization import METHOD, NUM_CALIBRATED, quantize
from service.export.side_by_side import (
    AccuracyPair,
    LatencyPair,
    check_batch_sizes,
    compare_accuracy,
    compare_latency,
    format_side_by_side,
)
from service.spec.errors import BadInputError, Problem

# A drop of fewer is within what another choice of images changes.
FEW_IMAGES = 10


class Int8Images(NamedTuple):
    """``calibration``: give the ranges. ``measured``: top-1 is computed on them.

    ``indices``: the network's index of each of their classes; None for all as they are.
    """

    calibration: Images
    measured: Images
    indices: tuple[int, ...] | None


def write_int8(
    found: FoundModel,
    options: ExportOptions,
    both: Int8Images,
    float32_path: Path,
    path: Path,
    log: Callable[[str], None],
) -> None:
    """Quantize the ONNX file of ``float32_path`` to ``path``, and compare the two.

    Raises:
        BadInputError: onnxruntime cannot quantize the network, or images do not decode.
        FailedCheckError: int8 loses more points of top-1 than ``options`` allow.
        OSError: the storage fails.
    """
    calibration, images, indices = both
    chosen = calibration.chosen(NUM_CALIBRATED)
    log(f"calibrating on {len(chosen)} images of {calibration.path}, {METHOD}")
    _quantize(found, float32_path, path, _inputs(found, options, calibration, chosen))
    float32, int8 = onnx_classifier(float32_path), onnx_classifier(path)
    measured = images.chosen(options.max_images or images.facts.num_images)
    first, _ = next(_inputs(found, options, images, measured[:BATCH_SIZE]))
    check_batch_sizes(int8, first)
    accuracies = compare_accuracy(float32, int8, _inputs(found, options, images, measured), indices)
    latencies = compare_latency(float32, int8, first)
    log(format_side_by_side(accuracies, latencies, float32_path, path))
    figures = _figures(accuracies, images, options.allowed_drop)
    if accuracies.drop_points > options.allowed_drop:
        remedy = "give more calibration images, or a larger --max-drop"
        raise FailedCheckError("--max-drop", figures, remedy)
    log(figures)
    metadata = export_metadata(found, normalizes=options.normalizes)
    facts = _int8_metadata(both, len(chosen), accuracies, latencies)
    set_metadata(path, {**metadata, **facts})


def _figures(accuracies: AccuracyPair, images: Images, allowed_drop: float) -> str:
    """The loss of int8 in a line, with what is allowed; where that is a few images, how many."""
    allowed, count = f"allowed: {allowed_drop:g}", accuracies.num_images
    num_allowed = math.floor(allowed_drop * count / 100)
    if num_allowed < FEW_IMAGES:
        allowed += f", which of so few images is {num_allowed}"
    return (
        f"int8 is {accuracies.drop_points:.2f} points of top-1 below float32 on {count:,} images "
        f"of {images.path} ({allowed}), and predicts the same class for "
        f"{100 * accuracies.same:.1f} % of them"
    )


def _quantize(
    found: FoundModel,
    float32_path: Path,
    path: Path,
    batches: Iterator[tuple[Floats, NDArray[np.int64]]],
) -> None:
    try:
        quantize(float32_path, path, (images for images, _ in batches))
    except (BadInputError, OSError):
        raise
    except Exception as error:
        # Of many types, none of which onnxruntime documents.
        reason = next(iter(str(error).splitlines()), "")
        wrong = f"is int8, to which onnxruntime cannot quantize {found.architecture}"
        wrong += f" ({type(error).__name__}: {reason})"
        problem = Problem("--format", wrong, "use --format onnx, which is float32")
        raise BadInputError("arguments", [problem]) from error


def _inputs(
    found: FoundModel, options: ExportOptions, images: Images, samples: NDArray[np.int64]
) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
    """Images as the file takes them [B, 3, H, W], and their labels [B]."""
    normalization = None if options.normalizes else found.preprocessing.normalization
    for batch in images.batches(samples):
        yield network_input(batch.images, normalization), batch.labels.numpy()


def _int8_metadata(
    both: Int8Images,
    num_calibrated: int,
    accuracies: AccuracyPair,
    latencies: Sequence[LatencyPair],
) -> dict[str, str]:
    """What was measured, by name; times in seconds, accuracies from 0 to 1."""
    values = {
        "calibration": {
            "method": METHOD,
            "num_images": num_calibrated,
            "fingerprint": both.calibration.facts.fingerprint,
        },
        "accuracy": {
            "float32_top1": accuracies.float32,
            "int8_top1": accuracies.int8,
            "num_images": accuracies.num_images,
            "fingerprint": both.measured.facts.fingerprint,
        },
        "latency": [each._asdict() for each in latencies],
    }
    return {name: json.dumps(value) for name, value in values.items()}
