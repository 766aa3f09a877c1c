"""Store a teacher's logits for the runs of a spec: python jobs/cache_teacher.py SPEC.json.

SPEC.json is a spec of jobs/distill.py with a teacher.cache. What is stored already is not computed
again, so a job that was stopped goes on where it was. With --plan nothing is computed. Exit status:
0 done, 1 failed, 2 bad input, 3 stopped before its end.
"""

import argparse
import signal
import sys

if __name__ == "__main__":
    # Until a folder is claimed, Ctrl-C ends the process without a traceback, as SIGTERM does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from service.run.logs import set_up_logging
from service.run.scripts import ScriptParser, run_script
from service.spec.errors import EXIT_BAD_INPUT, EXIT_DONE, BadInputError
from service.spec.loading import load_job
from service.spec.secrets import path_argument


def main(arguments: list[str]) -> int:
    """Fill the cache, or say what it would take; returns the exit status."""
    set_up_logging()
    parser = ScriptParser(__doc__)
    parser.add_argument("spec", type=path_argument, help="the JSON spec of a run")
    parser.add_argument("--plan", action="store_true", help="print bytes and hours only")
    try:
        return _run(parser.parse_args(arguments))
    except BadInputError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT


def _run(options: argparse.Namespace) -> int:
    job = load_job(options.spec)
    # What follows needs torch and ray; a spec is checked without waiting for them.
    if options.plan:
        from service.plan import format_cache, make_plan

        print(format_cache(make_plan(job)))
        return EXIT_DONE
    from service.cache_job import run_cache_job

    return run_cache_job(job)


if __name__ == "__main__":
    run_script(main)
