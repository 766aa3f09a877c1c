"""Compare variants of a job over seeds: python jobs/compare.py COMPARE.json [--validate | --plan].

Exit status: 0 all runs have finished, 1 some have failed, 2 bad input, 3 stopped.
"""

import argparse
import signal

if __name__ == "__main__":
    # Until a folder is claimed, Ctrl-C ends the process without a traceback, as SIGTERM does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from service.compare.loading import LoadedComparison, load_comparison
from service.compare.networks import check_mlflow_weights
from service.compare.resuming import check_same_comparison
from service.compare.spec import CompareSpec
from service.compare.warnings import comparison_warnings
from service.run.imports import quick_imports
from service.run.scripts import ScriptParser, run_script, run_spec
from service.spec.errors import EXIT_DONE
from service.spec.secrets import path_argument
from service.spec.weights_metadata import weights_notes


def main(arguments: list[str]) -> int:
    """Run, check or plan a comparison, or print the reference; returns the exit status."""
    return run_spec(_parser(), arguments, CompareSpec, _run)


def _parser() -> argparse.ArgumentParser:
    parser = ScriptParser(__doc__)
    parser.add_argument(
        "spec", nargs="?", type=path_argument, help="the JSON spec of the comparison"
    )
    mode = parser.add_mutually_exclusive_group()
    for name, text in {
        "validate": "only check the comparison and its files",
        "plan": "print what it would train, and how long that takes",
        "fields": "print every field of a comparison",
        "schema": "print the JSON schema, for editors",
    }.items():
        mode.add_argument(f"--{name}", action="store_true", help=text)
    return parser


def _run(options: argparse.Namespace) -> int:
    loaded = load_comparison(options.spec)
    if not (options.validate or options.plan):
        # Imported late: --validate does not need torch and Ray, which take seconds to import.
        with quick_imports():
            from service.compare.job import run_comparison

        return run_comparison(loaded)
    check_same_comparison(loaded)
    if options.plan:
        from service.compare.build import check_files_fit
        from service.compare.plan import format_plan
        from service.tracking.job_check import unanswered

        lines = check_files_fit(loaded)
        lines += unanswered(loaded.base.spec) or check_mlflow_weights(loaded)
        print(format_plan(loaded), *lines, sep="\n")
        return EXIT_DONE
    compare = loaded.compare
    num_runs = len(loaded.jobs) * len(compare.seeds)
    print(f"{options.spec}: valid, comparison {compare.name}, {num_runs} runs")
    for line in [*(f"warning: {text}" for text in comparison_warnings(loaded)), *_found(loaded)]:
        print(line)
    return EXIT_DONE


def _found(loaded: LoadedComparison) -> list[str]:
    """A line for each file with several weights, and for weights in MLflow."""
    lines = [line for job in loaded.jobs.values() for line in weights_notes(job.spec)]
    return list(dict.fromkeys([*lines, *check_mlflow_weights(loaded)]))


if __name__ == "__main__":
    run_script(main)
