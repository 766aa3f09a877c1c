"""int8 as an export: calibrated on real images, and refused if it loses too much of float32."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from service.evaluate.source import FoundModel
from service.export.comparison import Floats, network_input
from service.export.images import BATCH_SIZE, Images, calibration_images
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


def write_int8(
    found: FoundModel,
    options: ExportOptions,
    images: Images,
    float32_path: Path,
    path: Path,
    log: Callable[[str], None],
) -> None:
    """Quantize the ONNX file of ``float32_path`` to ``path``, and compare both on ``images``.

    Raises:
        BadInputError: images cannot be used.
        FailedCheckError: int8 loses more points of top-1 than ``options`` allow.
        OSError: the storage fails.
    """
    calibration = calibration_images(found, options.calibration)
    chosen = calibration.chosen(NUM_CALIBRATED)
    log(f"calibrating on {len(chosen)} images of {calibration.path}, {METHOD}")
    inputs = (pixels for pixels, _ in _inputs(found, options, calibration, chosen))
    quantize(float32_path, path, inputs)
    float32, int8 = onnx_classifier(float32_path), onnx_classifier(path)
    measured = images.chosen(options.max_images or images.facts.num_images)
    first, _ = next(_inputs(found, options, images, measured[:BATCH_SIZE]))
    check_batch_sizes(int8, first)
    accuracies = compare_accuracy(float32, int8, _inputs(found, options, images, measured))
    figures = (
        f"int8 is {accuracies.drop_points:.2f} points of top-1 below float32 on "
        f"{accuracies.num_images:,} images of {images.path} (allowed: {options.allowed_drop:g}), "
        f"and predicts the same class for {100 * accuracies.same:.1f} % of them"
    )
    if accuracies.drop_points > options.allowed_drop:
        raise FailedCheckError(figures)
    latencies = compare_latency(float32, int8, first)
    log(format_side_by_side(accuracies, latencies, float32_path, path))
    log(figures)
    metadata = export_metadata(found, normalizes=options.normalizes)
    facts = _int8_metadata(calibration, len(chosen), images, accuracies, latencies)
    set_metadata(path, {**metadata, **facts})


def _inputs(
    found: FoundModel, options: ExportOptions, images: Images, samples: np.ndarray
) -> Iterator[tuple[Floats, np.ndarray]]:
    """Images as the file takes them [B, 3, H, W], and their labels [B]."""
    normalization = None if options.normalizes else found.preprocessing.normalization
    for batch in images.batches(samples):
        yield network_input(batch.images, normalization), batch.labels.numpy()


def _int8_metadata(
    calibration: Images,
    num_calibrated: int,
    images: Images,
    accuracies: AccuracyPair,
    latencies: Sequence[LatencyPair],
) -> dict[str, str]:
    """What was measured, by name; times in seconds, accuracies from 0 to 1."""
    values = {
        "calibration": {
            "method": METHOD,
            "num_images": num_calibrated,
            "fingerprint": calibration.facts.fingerprint,
        },
        "accuracy": {
            "float32_top1": accuracies.float32,
            "int8_top1": accuracies.int8,
            "num_images": accuracies.num_images,
            "fingerprint": images.facts.fingerprint,
        },
        "latency": [each._asdict() for each in latencies],
    }
    return {name: json.dumps(value) for name, value in values.items()}
