"""Store a teacher's logits for the runs of a spec: python jobs/cache_teacher.py SPEC.json.

SPEC.json is a spec of jobs/distill.py, jobs/sweep.py or jobs/compare.py with a teacher.cache: of
many runs, the logits of all are stored, each once. What is stored already is not computed again,
so a job that was stopped goes on where it was. With --plan nothing is computed. Exit status: 0
done, 1 failed, 2 bad input, 3 stopped before its end.
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # Until a folder is claimed, Ctrl-C ends the process without a traceback, as SIGTERM does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from service.compare.kind import script_of
from service.compare.loading import load_comparison
from service.run.logs import set_up_logging
from service.run.scripts import ScriptParser, run_script
from service.spec.errors import EXIT_BAD_INPUT, EXIT_DONE, BadInputError
from service.spec.job import JobSpec
from service.spec.loading import load_job, read_json
from service.spec.secrets import path_argument
from service.sweep.loading import load_sweep

if TYPE_CHECKING:
    from service.teacher_cache.demand import Runs


def main(arguments: list[str]) -> int:
    """Fill the cache, or say what it would take; returns the exit status."""
    set_up_logging()
    parser = ScriptParser(__doc__)
    parser.add_argument(
        "spec", type=path_argument, help="the JSON spec of a run, a sweep or a comparison"
    )
    parser.add_argument("--plan", action="store_true", help="print bytes and time only")
    try:
        return _run(parser.parse_args(arguments))
    except BadInputError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT


def _run(options: argparse.Namespace) -> int:
    owner, runs = _loaded(options.spec)
    if options.plan:
        from service.cache_plan import many_cache_lines

        print("\n".join(many_cache_lines(runs)) or "the spec has no teacher.cache")
        return EXIT_DONE
    from service.cache_job import run_cache_job

    return run_cache_job(owner, [each.job for each in runs])


def _loaded(path: Path) -> "tuple[JobSpec, list[Runs]]":
    """What represents all runs of a spec, and these as far as they are known."""
    script = script_of(read_json(path))
    # What reads the runs needs torch; a spec is checked without waiting for it.
    if script == "distill":
        job = load_job(path)
        from service.teacher_cache.demand import Runs

        return job.spec, [Runs(job)]
    if script == "compare":
        comparison = load_comparison(path)
        from service.compare.cached_runs import cached_runs

        return comparison.compare.as_job(), cached_runs(comparison)
    sweep, base = load_sweep(path)
    from service.sweep.cached_runs import cached_runs as cached_trials
    from service.sweep.cached_runs import unshared_ranges

    base = base._replace(spec=sweep.as_job())
    if problems := list(unshared_ranges(sweep, base)):
        raise BadInputError(str(path), problems)
    return sweep.as_job(), cached_trials(sweep, base)


if __name__ == "__main__":
    run_script(main)
