"""Exports a model: traced, written under a partial name, checked on real images, then renamed."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipeline.files import atomic_path
from service.evaluate.preprocessing import BILINEAR
from service.evaluate.source import FoundModel
from service.export.comparison import (
    BATCH_SIZES,
    NUM_CHECKED,
    Classifier,
    Floats,
    compare,
    eager_logits,
    network_input,
)
from service.export.images import Images, calibration_images, data_images, measured_classes
from service.export.int8 import Int8Images, write_int8
from service.export.metadata import export_metadata
from service.export.network import traced
from service.export.onnx_file import check_size, onnx_classifier, write_onnx
from service.export.options import BY_NAME, INT8, PT2, SAFETENSORS, ExportOptions, FailedCheckError
from service.export.usage import usage
from service.export.weights_files import (
    pt2_classifier,
    safetensors_classifier,
    write_pt2,
    write_safetensors,
)
from service.spec.errors import BadInputError

Log = Callable[[str], None]
REMEDY = "give another format; safetensors has the weights alone"


def export_model(found: FoundModel, options: ExportOptions, log: Log = print) -> None:
    """Write a model to ``options.out``; nothing is left there if a check fails.

    ``log`` gets the figures of the check, and how the file is used.

    Raises:
        BadInputError: the network cannot be exported to the format, or the images cannot be used.
        FailedCheckError: the file does not answer as the network does, or int8 loses more than it
            may.
        OSError: the storage fails.
    """
    for note in found.notes:
        log(note)
    if found.interpolation != BILINEAR:
        log(f"published with {found.interpolation} resizing, here checked with {BILINEAR}")
    if options.is_onnx:
        check_size(found.network)
    if options.format == INT8:
        _export_int8(found, options, log)
    else:
        images = data_images(found, options.data)
        with atomic_path(options.out) as path:
            _write_checked(found, options, images, path, log)
    log(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB, {options.format}. To run it:")
    log("\n".join(f"    {line}" for line in usage(found, options).splitlines()))


def _export_int8(found: FoundModel, options: ExportOptions, log: Log) -> None:
    """Write float32 and check it as any file, and then int8."""
    measured = data_images(found, options.data)
    indices = measured_classes(found, measured, by_name=options.classes == BY_NAME)
    both = Int8Images(calibration_images(found, options.calibration), measured, indices)
    with atomic_path(options.out) as path, tempfile.TemporaryDirectory() as folder:
        float32_path = Path(folder) / "float32.onnx"
        _write_checked(found, options, measured, float32_path, log)
        write_int8(found, options, both, float32_path, path, log)


def _write_checked(
    found: FoundModel, options: ExportOptions, images: Images, path: Path, log: Log
) -> None:
    """Write a file in float32 and check it."""
    _write(found, options, path)
    try:
        classify = _loaded(found, options, path)
        comparison = compare(classify, _expected(found, options, images))
    except (BadInputError, OSError):
        raise
    except Exception as error:
        # Of the runtimes, which have their own types.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        wrong = f"is {options.format}, and the file does not run: {reason}"
        raise FailedCheckError("--format", wrong, REMEDY) from error
    sizes = ", ".join(map(str, BATCH_SIZES))
    text = f"{images.path}, in batches of {sizes}: {comparison}"
    if not comparison.is_equal:
        wrong = f"is {options.format}, and the file does not answer as the network does on {text}"
        raise FailedCheckError("--format", wrong, REMEDY)
    log(f"checked on {text}")


def _write(found: FoundModel, options: ExportOptions, path: Path) -> None:
    metadata = export_metadata(found, normalizes=options.normalizes)
    if options.format == SAFETENSORS:
        write_safetensors(found.network, path, metadata)
    elif options.format == PT2:
        write_pt2(traced(found, options), path, metadata)
    else:
        write_onnx(traced(found, options), path, found.architecture, options, metadata)


def _loaded(found: FoundModel, options: ExportOptions, path: Path) -> Classifier:
    if options.format == SAFETENSORS:
        return safetensors_classifier(path, found)
    return pt2_classifier(path) if options.format == PT2 else onnx_classifier(path)


def _expected(
    found: FoundModel, options: ExportOptions, images: Images
) -> Iterator[tuple[Floats, Floats]]:
    """Images as the file takes them, and the network's own logits of them."""
    own = found.preprocessing.normalization
    outside = None if options.normalizes else own
    for batch in images.batches(images.chosen(NUM_CHECKED)):
        expected = eager_logits(found.network, own, batch.images)
        yield network_input(batch.images, outside), expected
