"""Search a job's settings: python jobs/sweep.py SWEEP.json [--validate | --plan | --confirm N].

Exit status: 0 done, 1 failed, 2 bad input, 3 stopped.
"""

import argparse
import signal

if __name__ == "__main__":
    # Until a folder is claimed, Ctrl-C ends the process without a traceback, as SIGTERM does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from service.run.imports import quick_imports
from service.run.scripts import ScriptParser, run_script, run_spec
from service.spec.errors import EXIT_DONE
from service.spec.image_warnings import small_image_warnings
from service.spec.secrets import path_argument
from service.spec.weights_metadata import weights_notes
from service.sweep.loading import load_sweep
from service.sweep.resuming import check_same_sweep
from service.sweep.spec import SweepSpec


def main(arguments: list[str]) -> int:
    """Run, check or plan a sweep, or print the reference; returns the exit status."""
    return run_spec(_parser(), arguments, SweepSpec, _run)


def _run(options: argparse.Namespace) -> int:
    loaded = load_sweep(options.spec)
    sweep = loaded.sweep
    job = loaded.base._replace(spec=sweep.as_job())
    if options.validate or options.plan:
        check_same_sweep(loaded)
    warnings = [f"warning: {text}" for text in small_image_warnings(*job)]
    if options.validate:
        lines = [*warnings, *weights_notes(job.spec)]
        if job.spec.has_mlflow_weights:
            from service.tracking.job_check import check_weights

            lines += check_weights(job)
        print(f"{options.spec}: valid, sweep {sweep.name}, {len(sweep.space)} parameters")
        print(*lines, sep="\n", end="\n" if lines else "")
        return EXIT_DONE
    # Imported late: --validate does not need torch, Ray and Optuna, which take seconds to import.
    if options.plan:
        from service.cache_plan import many_cache_lines
        from service.plan import check_weights_fit
        from service.sweep.cached_runs import cached_runs, unshared_ranges
        from service.sweep.plan import format_plan
        from service.tracking.job_check import check_tracking

        lines = [*warnings, *check_weights_fit(job.spec), *check_tracking(job)]
        cache = [f"warning: {problem}" for problem in unshared_ranges(sweep, job)]
        runs, are_concurrent = cached_runs(sweep, job), sweep.concurrency != 1
        cache = cache or many_cache_lines(runs, are_concurrent=are_concurrent)
        print(format_plan(sweep), *cache, *lines, sep="\n")
        return EXIT_DONE
    with quick_imports():
        from service.sweep.job import run_sweep

    return run_sweep(loaded, options.confirm)


def _parser() -> argparse.ArgumentParser:
    parser = ScriptParser(__doc__)
    parser.add_argument("spec", nargs="?", type=path_argument, help="the JSON spec of the sweep")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--validate", action="store_true", help="only check the sweep and its files")
    mode.add_argument("--plan", action="store_true", help="print what the sweep would do")
    mode.add_argument(
        "--confirm",
        type=_num_seeds,
        default=0,
        metavar="N",
        help="then train the best and the default settings with N seeds each, and compare",
    )
    mode.add_argument("--fields", action="store_true", help="print every field of a sweep")
    mode.add_argument("--schema", action="store_true", help="print the JSON schema, for editors")
    return parser


def _num_seeds(text: str) -> int:
    """A positive integer.

    Raises:
        ValueError: it is not.
    """
    number = int(text)
    if number < 1:
        raise ValueError("use at least one seed")
    return number


if __name__ == "__main__":
    run_script(main)
