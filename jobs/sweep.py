"""Search a job's settings: python jobs/sweep.py SWEEP.json [--validate | --plan | --confirm N].

Exit status: 0 done, 1 failed, 2 bad input, 3 stopped before its end.
"""

import argparse
import sys
from pathlib import Path

from service.spec.errors import EXIT_BAD_INPUT, EXIT_DONE, BadInputError
from service.sweep.loading import load_sweep


def main(arguments: list[str]) -> int:
    """Run, check or plan a sweep and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="the JSON spec of the sweep")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--validate", action="store_true", help="check the sweep and its files only")
    mode.add_argument("--plan", action="store_true", help="say what the sweep would do")
    mode.add_argument(
        "--confirm",
        type=number_of_seeds,
        default=0,
        metavar="N",
        help="then train the best and the default settings with N seeds each, and compare",
    )
    options = parser.parse_args(arguments)
    try:
        loaded = load_sweep(options.sweep)
        sweep = loaded.sweep
        if options.validate:
            print(f"{options.sweep}: valid, sweep {sweep.name}, {len(sweep.space)} parameters")
            return EXIT_DONE
        # What follows needs torch, ray and optuna; a spec is judged without waiting for them.
        if options.plan:
            from service.sweep.plan import format_plan

            print(format_plan(sweep))
            return EXIT_DONE
        from service.sweep.job import run_sweep

        return run_sweep(loaded, options.confirm)
    except BadInputError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT


def number_of_seeds(text: str) -> int:
    """A whole number from 1.

    Raises:
        ValueError: it is none.
    """
    number = int(text)
    if number < 1:
        raise ValueError("take at least one seed")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
