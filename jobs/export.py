"""Export a network for other programs: python jobs/export.py RUN --format FORMAT.

RUN is a run's folder, an address in MLflow (models:/ or runs:/), a file of weights, or the name of
a network of torchvision or timm. FORMAT:

onnx         ONNX, in one file; runs in onnxruntime
int8         ONNX with QDQ pairs: int8 weights and activations, calibrated on real images
pt2          torch.export; runs in torch, without the source of the network
safetensors  the weights alone; normalization is outside

The file is compared with the network on real images, in batches of several sizes, before it gets
its name. Its metadata has the names of the classes and how images are prepared. Exit status:
0 done, 1 the file does not answer as the network does, or int8 loses more than --max-drop (no file
is written), 2 bad input, 3 stopped by Ctrl-C or SIGTERM (no file is written).
"""

import argparse
import signal
import tempfile
from pathlib import Path

if __name__ == "__main__":
    # Until the work begins, Ctrl-C ends the process without a traceback, as SIGTERM does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from service.evaluate.options import add_model_options, model_options, source_argument, whole_number
from service.evaluate.request import EvaluationFailedError, requested_uri
from service.export.options import (
    ARGUMENT,
    BY_NAME,
    DEFAULT_MAX_DROP,
    FORMATS,
    OPSETS,
    PLACES,
    ExportOptions,
    FailedCheckError,
    check_options,
    default_out,
    new_file,
)
from service.run.imports import quick_imports
from service.run.logs import set_up_logging
from service.run.scripts import ScriptParser, run_script, run_stoppable
from service.spec.secrets import path_argument


def main(arguments: list[str]) -> int:
    """Export and return the exit status."""
    set_up_logging()
    options = _parser().parse_args(arguments)
    if options.out is None:
        options.out = default_out(options.run, options.format)
    own = ExportOptions(**{name: getattr(options, name) for name in ExportOptions._fields})
    failures = (EvaluationFailedError, FailedCheckError, OSError)
    return run_stoppable(
        lambda: _export(own, options), failures, f"; {options.out} was not written"
    )


def _export(own: ExportOptions, options: argparse.Namespace) -> None:
    check_options(own)
    uri = requested_uri(options.tracking_uri)
    # Imported late: torch takes seconds to import.
    with quick_imports():
        from service.evaluate.source import find_model
        from service.export.job import export_model

    with tempfile.TemporaryDirectory() as folder:
        described = model_options(options, ARGUMENT)
        found = find_model(options.run, described, uri, Path(folder))
        export_model(found, own.with_absolute_paths())


def _parser() -> argparse.ArgumentParser:
    parser = ScriptParser(__doc__)
    add = parser.add_argument
    add("run", type=source_argument, metavar=ARGUMENT)
    add("--format", required=True, metavar="FORMAT", help=", ".join(FORMATS))
    default = "named after the model, in the current folder"
    add("--out", type=new_file, metavar="PATH", help=f"the file to write (default: {default})")
    checked = "images that the file is checked on, of any classes (default: the run's val)"
    add("--data", type=path_argument, metavar="DATA.beton", help=checked)
    places = "inside: the file takes RGB from 0 to 1 (default); outside: normalized images"
    add("--normalization", metavar="|".join(PLACES), help=places)
    opsets = f"of ONNX, {OPSETS[0]} to {OPSETS[-1]} (default: that of torch)"
    add("--opset", type=int, metavar="N", help=opsets)
    uri = "in place of MLFLOW_TRACKING_URI"
    add("--tracking-uri", type=source_argument, metavar="URI", help=uri)
    _add_int8_options(parser)
    add_model_options(parser, ARGUMENT)
    return parser


def _add_int8_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("int8").add_argument
    ranges = "images that give the ranges of activations (default: the run's train)"
    add("--calibration", type=path_argument, metavar="DATA.beton", help=ranges)
    drop = f"of top-1 that int8 may be below float32 (default: {DEFAULT_MAX_DROP:g})"
    add("--max-drop", type=_points, metavar="POINTS", help=drop)
    measured = "images that top-1 is computed on (default: all)"
    add("--max-images", type=whole_number(1), metavar="N", help=measured)
    by_name = "top-1 is that of the network's classes that have the names of the data's"
    add("--classes", choices=[BY_NAME], help=by_name)


def _points(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"is {text!r}; give points of top-1, 0 to 100")
    return value


if __name__ == "__main__":
    run_script(main)
