"""Send the missing data of runs that have ended to MLflow: python jobs/sync.py FOLDER ...

A FOLDER is a run's folder, or a storage path with runs in it, wherever it was moved or copied to.
The server is MLFLOW_TRACKING_URI, or that of each run's spec; without either, it is SQLite beside
the run's folder. A SQLite file elsewhere must be named by MLFLOW_TRACKING_URI. Exit status:
0 MLflow has everything, 1 something is missing, 2 bad input alone, such as a damaged run,
3 stopped by SIGTERM or Ctrl+C.
"""

import sys
from pathlib import Path

from data_pipeline.uris import redacted
from service.compare.publish import sync_comparison
from service.compare.resuming import is_comparison
from service.publish import run_folders, sync_run
from service.run.folder import refuse_links
from service.run.logs import set_up_logging
from service.run.scripts import ScriptParser, run_script
from service.run.stop_signals import JobStoppedError, StopSignals
from service.spec.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_STOPPED,
    BadInputError,
    Problem,
)
from service.spec.paths import absolute_path, path_remedy
from service.spec.secrets import path_argument
from service.sweep.publish import is_sweep, sync_sweep


def main(arguments: list[str]) -> int:
    """Send the missing data and return the exit status."""
    set_up_logging()
    parser = ScriptParser(__doc__)
    parser.add_argument("folders", nargs="+", type=path_argument, metavar="FOLDER")
    folders = parser.parse_args(arguments).folders
    problems = [
        Problem(
            str(absolute_path(folder)),
            "has no run in it",
            path_remedy(folder, "a run's folder or a storage path"),
        )
        for folder in folders
        if not run_folders(folder)
    ]
    if problems:
        print(BadInputError("arguments", problems), file=sys.stderr)
        return EXIT_BAD_INPUT
    signals = StopSignals()
    try:
        with signals.installed(), signals.interruptible():
            return _sync_all(folders)
    except JobStoppedError:
        print("stopped; the same command sends what is still missing", flush=True)
        return EXIT_STOPPED


def _sync_all(folders: list[Path]) -> int:
    """Send each run, whatever becomes of the others; returns the exit status."""
    statuses = {EXIT_DONE}
    for run_path in [run for folder in folders for run in run_folders(folder)]:
        try:
            if run_path not in folders:
                refuse_links([run_path])
            print(_sync(run_path), flush=True)
        except BadInputError as error:
            print(error, file=sys.stderr)
            statuses.add(EXIT_BAD_INPUT)
        except Exception as error:
            print(
                f"{run_path.name}: MLflow did not accept it: {redacted(str(error))}",
                file=sys.stderr,
            )
            statuses.add(EXIT_FAILED)
    return EXIT_FAILED if EXIT_FAILED in statuses else max(statuses)


def _sync(path: Path) -> str:
    """Send a run, a sweep or a comparison; returns a line for the log."""
    if is_sweep(path):
        return sync_sweep(path)
    return sync_comparison(path) if is_comparison(path) else sync_run(path)


if __name__ == "__main__":
    run_script(main)
