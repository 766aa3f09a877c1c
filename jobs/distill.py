"""Train the student that a spec describes: python jobs/distill.py SPEC.json [--validate | --plan].

Exit status: 0 done, 1 failed, 2 bad input, 3 stopped before its end.
"""

import argparse
import sys
from pathlib import Path

from service.run.folder import check_same_spec
from service.spec.errors import EXIT_BAD_INPUT, EXIT_DONE, BadInputError
from service.spec.loading import load_job


def main(arguments: list[str]) -> int:
    """Run, check or plan a spec and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path, help="the JSON spec of the run")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--validate", action="store_true", help="check the spec and its files only")
    mode.add_argument("--plan", action="store_true", help="say what the run would do and need")
    options = parser.parse_args(arguments)
    try:
        job = load_job(options.spec)
        spec = job.spec
        check_same_spec(spec)
        if options.validate:
            print(f"{options.spec}: valid, run {spec.name}, hash {spec.content_hash()[:16]}")
            return EXIT_DONE
        # What follows needs torch and ray; a spec is judged without waiting for them.
        if options.plan:
            from service.plan import format_plan, make_plan

            print(format_plan(make_plan(job)))
            return EXIT_DONE
        from service.job import run_job

        return run_job(job)
    except BadInputError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
