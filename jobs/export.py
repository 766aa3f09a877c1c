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
is written), 2 bad input.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from data_pipeline.uris import redacted
from service.evaluate.options import add_model_options, model_options, source_argument, whole_number
from service.evaluate.request import EvaluationFailedError, requested_uri
from service.export.options import (
    DEFAULT_MAX_DROP,
    FORMATS,
    PLACES,
    ExportOptions,
    FailedCheckError,
    check_options,
    default_out,
)
from service.run.logs import set_up_logging
from service.run.scripts import run_script
from service.spec.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, BadInputError
from service.spec.secrets import path_argument

ARGUMENT = "RUN"


def main(arguments: list[str]) -> int:
    """Export and return the exit status."""
    set_up_logging()
    options = _parser().parse_args(arguments)
    options.out = options.out or default_out(options.run, options.format)
    own = ExportOptions(**{name: getattr(options, name) for name in ExportOptions._fields})
    # So that no partial file is left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        check_options(own)
        uri = requested_uri(options.tracking_uri)
        # Imported late: torch takes seconds to import.
        from service.evaluate.source import fetch_model
        from service.export.job import export_model

        with tempfile.TemporaryDirectory() as folder:
            described = model_options(options, ARGUMENT)
            found = fetch_model(options.run, described, uri, Path(folder))
            export_model(found, own.with_absolute_paths())
    except BadInputError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    except (EvaluationFailedError, FailedCheckError, OSError) as error:
        print(redacted(f"{error}; {own.out} was not written"), file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print(f"interrupted; {own.out} was not written", file=sys.stderr)
        return 128 + signal.SIGINT
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=source_argument, metavar=ARGUMENT)
    parser.add_argument("--format", required=True, metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument(
        "--out",
        type=path_argument,
        metavar="PATH",
        help="the file to write (default: named after the model, in the current folder)",
    )
    parser.add_argument(
        "--data",
        type=path_argument,
        metavar="DATA.beton",
        help="images that the file is checked on (default: the run's val)",
    )
    parser.add_argument(
        "--normalization",
        metavar="|".join(PLACES),
        help="inside: the file takes RGB from 0 to 1 (default); outside: normalized images",
    )
    parser.add_argument(
        "--opset", type=whole_number(1), metavar="N", help="of ONNX (default: that of torch)"
    )
    group = parser.add_argument_group("int8")
    group.add_argument(
        "--calibration",
        type=path_argument,
        metavar="DATA.beton",
        help="images that give the ranges of activations (default: the run's train)",
    )
    group.add_argument(
        "--max-drop",
        type=_points,
        metavar="POINTS",
        help=f"of top-1 that int8 may be below float32 (default: {DEFAULT_MAX_DROP:g})",
    )
    group.add_argument(
        "--max-images",
        type=whole_number(1),
        metavar="N",
        help="images that top-1 is computed on (default: all)",
    )
    parser.add_argument(
        "--tracking-uri",
        type=source_argument,
        metavar="URI",
        help="in place of MLFLOW_TRACKING_URI",
    )
    add_model_options(parser, ARGUMENT)
    return parser


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
