"""Train the student that a spec describes: python jobs/distill.py SPEC.json.

With --validate, --plan, --probe or --profile no student is trained. A first spec: python
jobs/distill.py --new --train T.beton --val V.beton --student MODEL [--teacher MODEL --weights
SOURCE]. One with published settings: --new --recipe NAME --train T.beton --val V.beton [--weights
SOURCE]. Exit status: 0 done, 1 failed, 2 bad input, 3 stopped before its end.
"""

import argparse
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    # Until a folder is claimed, Ctrl-C ends the process without a traceback, as SIGTERM does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from service.run.claim import check_resumable
from service.run.imports import quick_imports
from service.run.logs import set_up_logging
from service.run.scripts import ScriptParser, run_script
from service.spec.errors import EXIT_BAD_INPUT, EXIT_DONE, BadInputError
from service.spec.image_warnings import small_image_warnings
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob, load_job
from service.spec.recipes import (
    RECIPES,
    Files,
    format_recipes,
    recipe_spec,
    unknown_recipe,
    weights_problem,
)
from service.spec.reference import format_fields, json_schema
from service.spec.secrets import path_argument
from service.spec.template import Choices, format_spec, new_spec
from service.spec.weights_metadata import weights_notes

NEW_OPTIONS = ("train", "val", "recipe", "student", "teacher", "weights", "storage", "name")
DEFAULT_STORAGE = Path("runs")


def main(arguments: list[str]) -> int:
    """Run, check or plan a spec, or print one; returns the exit status."""
    set_up_logging()
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.fields or options.schema:
            print(format_fields(JobSpec) if options.fields else json_schema(JobSpec))
        elif options.recipes:
            print(format_recipes())
        elif options.new:
            if options.spec is not None:
                parser.error("--new prints a spec and reads none; remove the path")
            if options.recipe is not None:
                return _print_recipe(parser, options)
            print(format_spec(new_spec(_choices(parser, options))))
        elif options.spec is None:
            parser.error("give a spec, or --new, --recipes, --fields or --schema")
        elif extra := [name for name in NEW_OPTIONS if getattr(options, name) is not None]:
            parser.error(f"--{extra[0]} goes with --new; set the field in the spec")
        else:
            return _run(options)
    except BadInputError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    return EXIT_DONE


def _run(options: argparse.Namespace) -> int:
    job = load_job(options.spec)
    spec = job.spec
    if options.validate or options.plan:
        check_resumable(job)
    if options.validate:
        lines = [*_warnings(job), *_found_weights(job)]
        print(f"{options.spec}: valid, run {spec.name}, hash {spec.content_hash()[:16]}")
        print(*lines, sep="\n", end="\n" if lines else "")
        return EXIT_DONE
    # What follows needs torch and ray; a spec is checked without waiting for them.
    if options.plan:
        from service.plan import check_weights_fit, format_plan, make_plan
        from service.tracking.job_check import check_tracking

        lines = [*_warnings(job), *check_weights_fit(spec), *check_tracking(job)]
        print(format_plan(make_plan(job)), *lines, sep="\n")
        return EXIT_DONE
    if options.probe:
        from service.probe.teacher import probe_teacher

        print(probe_teacher(job))
        return EXIT_DONE
    if options.profile:
        from service.profile_job import profile_job

        return profile_job(job)
    with quick_imports():
        from service.job import run_job

    return run_job(job)


def _warnings(job: LoadedJob) -> list[str]:
    return [f"warning: {text}" for text in small_image_warnings(*job)]


def _found_weights(job: LoadedJob) -> list[str]:
    """A line for each file with several weights, and for weights in MLflow.

    MLflow is imported only if there are any.
    """
    lines = weights_notes(job.spec)
    if job.spec.has_mlflow_weights:
        from service.tracking.job_check import check_weights

        lines += check_weights(job)
    return lines


def _print_recipe(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if problem := unknown_recipe(options.recipe):
        print(problem, file=sys.stderr)
        return EXIT_BAD_INPUT
    if extra := [name for name in ("student", "teacher") if getattr(options, name) is not None]:
        parser.error(f"--recipe has its own {extra[0]}; leave out --{extra[0]}")
    _require(parser, options, "--recipe", ("train", "val"))
    recipe = RECIPES[options.recipe]
    if wrong := weights_problem(recipe, options.weights):
        parser.error(wrong)
    storage = options.storage or DEFAULT_STORAGE
    files = Files(options.train, options.val, options.weights, storage, options.name)
    print(format_spec(recipe_spec(recipe, files)))
    return EXIT_DONE


def _require(
    parser: argparse.ArgumentParser, options: argparse.Namespace, by: str, names: tuple[str, ...]
) -> None:
    if missing := [f"--{name}" for name in names if getattr(options, name) is None]:
        parser.error(f"{by} needs {', '.join(missing)}")


def _choices(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Choices:
    _require(parser, options, "--new", ("train", "val", "student"))
    if (options.teacher is None) != (options.weights is None):
        parser.error("--teacher and --weights go together; give both or neither")
    return Choices(
        options.train,
        options.val,
        options.student,
        options.teacher,
        options.weights,
        options.storage or DEFAULT_STORAGE,
        options.name,
    )


def _parser() -> argparse.ArgumentParser:
    parser = ScriptParser(__doc__)
    parser.add_argument("spec", nargs="?", type=path_argument, help="the JSON spec of the run")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--validate", action="store_true", help="check the spec and its files only")
    mode.add_argument("--plan", action="store_true", help="print what the run would do and need")
    mode.add_argument(
        "--probe",
        action="store_true",
        help="try the teacher on some images, for about two minutes: accuracy, entropies, warnings",
    )
    mode.add_argument(
        "--profile",
        action="store_true",
        help="run some steps on the cluster, under another name, and say where their time goes",
    )
    mode.add_argument("--new", action="store_true", help="print a complete spec for your data")
    mode.add_argument("--recipes", action="store_true", help="list the published settings by name")
    mode.add_argument("--fields", action="store_true", help="print every field of a spec")
    mode.add_argument("--schema", action="store_true", help="print the JSON schema, for editors")
    new = parser.add_argument_group("for --new")
    new.add_argument("--train", metavar="T.beton", help="dataset to train on")
    new.add_argument("--val", metavar="V.beton", help="dataset to evaluate")
    new.add_argument(
        "--recipe",
        metavar="NAME",
        help="published settings, such as cifar100/resnet56-resnet20/dkd",
    )
    new.add_argument("--student", metavar="MODEL", help="such as resnet18 or cifar:resnet20")
    new.add_argument("--teacher", metavar="MODEL", help="such as resnet34; left out: no teacher")
    new.add_argument(
        "--weights", metavar="SOURCE", help="the teacher's: a file, torchvision:ENUM or MLflow URI"
    )
    new.add_argument(
        "--storage", type=path_argument, help="folder for runs; default: runs, in this one"
    )
    new.add_argument("--name", help="name of the run; default: from the models")
    return parser


if __name__ == "__main__":
    run_script(main)
