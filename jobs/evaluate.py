"""Measure a model on a dataset: python jobs/evaluate.py MODEL DATA.beton [options].

MODEL is a run's folder, an address in MLflow (models:/NAME@ALIAS, models:/NAME/3, models:/m-ID,
runs:/ID/student), a file of weights, or a network of torchvision (resnet18) or timm (timm:NAME).
Every image is classified once. Exit status: 0 done, 1 MLflow did not answer, 2 bad input, 3 stopped
by Ctrl-C or SIGTERM, which leaves no partial file.
"""

import argparse
import signal

if __name__ == "__main__":
    # Until the work begins, Ctrl-C ends the process without a traceback, as SIGTERM does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from service.evaluate.options import add_model_options, model_options, source_argument, whole_number
from service.evaluate.request import (
    EvaluationFailedError,
    EvaluationRequest,
    ModelRequest,
    TrackingRequest,
    check_request,
    requested_uri,
)
from service.run.imports import quick_imports
from service.run.logs import set_up_logging
from service.run.scripts import ScriptParser, run_script, run_stoppable
from service.spec.errors import BadInputError, Problem
from service.spec.secrets import path_argument

TEACHER = "teacher-"


def main(arguments: list[str]) -> int:
    """Evaluate and return the exit status."""
    set_up_logging()
    options = _parser().parse_args(arguments)
    return run_stoppable(lambda: _evaluate(options), (EvaluationFailedError, OSError))


def _evaluate(options: argparse.Namespace) -> None:
    request = _request(options)
    check_request(request)
    # Imported late: torch takes seconds to import.
    with quick_imports():
        from service.evaluate.job import run_evaluation

    run_evaluation(request)


def _parser() -> argparse.ArgumentParser:
    parser = ScriptParser(__doc__)
    parser.add_argument("model", type=source_argument, metavar="MODEL")
    parser.add_argument("data", type=path_argument, metavar="DATA", help="a .beton with labels")
    add = parser.add_argument
    add("--teacher", type=source_argument, metavar="MODEL", help="report the agreement with it")
    by_name = "use only its classes that have the names of the data's"
    add("--classes", choices=["by_name"], help=f"of MODEL: {by_name}")
    add(f"--{TEACHER}classes", choices=["by_name"], help="the same of the teacher")
    add("--json", type=path_argument, metavar="FILE", help="write the report as JSON")
    add("--html", type=path_argument, metavar="FILE", help="write the report as a page")
    add("--gpu", action="store_true", help="use this machine's GPU")
    add("--precision", choices=["float32", "bfloat16"], default="float32")
    add("--batch-size", type=whole_number(1), default=64, metavar="N", help="images (default: 64)")
    add("--corruptions", action="store_true", help="also classify corrupted images: 20 passes")
    add(
        "--seed",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="of the corruptions (default: 0)",
    )
    add("--mlflow", action="store_true", help="log the results to MLflow")
    add(
        "--tracking-uri",
        type=source_argument,
        metavar="URI",
        help="in place of MLFLOW_TRACKING_URI",
    )
    add("--experiment", default="dtkd", metavar="NAME", help="that is logged to (default: dtkd)")
    add_model_options(parser, "MODEL")
    add_model_options(parser, "--teacher", f"--{TEACHER}")
    return parser


def _request(options: argparse.Namespace) -> EvaluationRequest:
    teacher, by_name = None, options.teacher_classes is not None
    teacher_options = model_options(options, "--teacher", f"--{TEACHER}")
    if options.teacher is not None:
        teacher = ModelRequest(options.teacher, teacher_options, by_name)
    elif given := [*teacher_options.given, *(["classes"] if by_name else [])]:
        wrong, remedy = "is set, but there is no --teacher", "give one, or remove it"
        problems = [Problem(teacher_options.where(name), wrong, remedy) for name in given]
        raise BadInputError("arguments", problems)
    uri = requested_uri(options.tracking_uri)
    return EvaluationRequest(
        ModelRequest(options.model, model_options(options, "MODEL"), options.classes is not None),
        options.data,
        teacher,
        TrackingRequest(uri, options.experiment, options.mlflow),
        options.json,
        options.html,
        options.gpu,
        options.precision,
        options.batch_size,
        options.seed if options.corruptions else None,
    )


if __name__ == "__main__":
    run_script(main)
