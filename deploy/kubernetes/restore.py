"""Replace MLflow's databases by a dump: python deploy/kubernetes/restore.py [DUMP].

DUMP is a name such as 20261126T021700Z; without it, the newest is used. MLflow is stopped
meanwhile, and started again whatever happens. Runs go on: what MLflow misses, they send later. Exit
status: 0 restored, 1 failed, 2 bad input, of which nothing is stopped, 3 stopped.
"""

import argparse
import contextlib
import re
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from backup_jobs import POLL_S, backup_job, run_job
from external import NAMESPACE
from kubectl import LOG_IN, call, check_answers, exists, get, run_command

from service.run.scripts import ScriptParser
from service.spec.errors import EXIT_STOPPED, BadInputError, Problem

DUMP = re.compile(r"\d{8}T\d{6}Z")
LIST_JOB, RESTORE_JOB = "postgres-dumps", "postgres-restore"
LIST_TIMEOUT_S = 600
RESTORE_TIMEOUT_S = 7200
STOP_TIMEOUT_S = 180
STOPS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def restore(arguments: list[str]) -> None:
    """Check that all is there, then stop MLflow, restore, and start it again.

    Raises:
        BadInputError: something is missing, or the cluster refuses a part.
    """
    options = _parser().parse_args(arguments)
    check_answers()
    num_servers, cron_job = _num_servers(), _existing("cronjob", "postgres-backup")
    for name in (LIST_JOB, RESTORE_JOB):
        if exists("job", name):
            remedy = f"wait for the other restore, or run kubectl delete job {name} -n {NAMESPACE}"
            raise BadInputError("cluster", [Problem(f"Job {name}", "exists", remedy)])
    listed = run_job(backup_job(cron_job, LIST_JOB, LIST_TIMEOUT_S, ACTION="dumps"))
    if not listed.is_complete:
        _fail(LIST_JOB, listed.log, "the dumps cannot be listed; MLflow was not stopped")
    dump = chosen(options.dump, DUMP.findall(listed.log))
    job = backup_job(cron_job, RESTORE_JOB, RESTORE_TIMEOUT_S, ACTION="restore", DUMP=dump)
    with _mlflow_stopped(num_servers):
        restored = run_job(job)
        if not restored.is_complete:
            _fail(RESTORE_JOB, restored.log, f"{dump} was not restored; the line above says why")
    print(restored.log, end="")


def chosen(dump: str | None, dumps: list[str]) -> str:
    """The dump that was asked for, or the newest.

    Raises:
        BadInputError: it is not there.
    """
    if not dumps:
        remedy = f"run kubectl create job backup-1 --from=cronjob/postgres-backup -n {NAMESPACE}"
        raise BadInputError("dumps", [Problem("claim dtkd-backups", "has no dump", remedy)])
    if dump is not None and dump not in dumps:
        remedy = f"give one of {', '.join(sorted(dumps))}"
        raise BadInputError("dumps", [Problem(f"dump {dump}", "is not there", remedy)])
    return dump or max(dumps)


def _existing(kind: str, name: str) -> dict[str, object]:
    found = get(kind, name)
    if found is None:
        remedy = "run deploy/kubernetes/apply.py OVERLAY platform"
        raise BadInputError("cluster", [Problem(f"{kind} {name}", "is not there", remedy)])
    return found


@contextlib.contextmanager
def _mlflow_stopped(num_servers: int) -> Iterator[None]:
    """MLflow has no server meanwhile: restoring replaces tables that it would use."""
    try:
        _scale(0)
        pods = ("get", "pods", "--selector=app=mlflow", "--namespace", NAMESPACE, "--output=name")
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while running := call(*pods, remedy=LOG_IN).split():
            if time.monotonic() > deadline_s:
                sys.exit(
                    f"deploy: {running[0]}: has not ended in {STOP_TIMEOUT_S} s, and nothing was "
                    f"restored; look at it with kubectl describe {running[0]} -n {NAMESPACE}"
                )
            time.sleep(POLL_S)
        yield
    finally:
        _scale(num_servers)


def _num_servers() -> int:
    deployment = _existing("deployment", "mlflow")
    spec = deployment["spec"]
    assert isinstance(spec, dict)
    return int(spec["replicas"])


def _scale(num_servers: int) -> None:
    command = (
        "scale",
        "deployment",
        "mlflow",
        "--namespace",
        NAMESPACE,
        f"--replicas={num_servers}",
    )
    print(call(*command, remedy=f"run kubectl {' '.join(command)}"), end="", flush=True)


def _fail(job: str, log: str, text: str) -> NoReturn:
    print(log, end="", file=sys.stderr)
    sys.exit(f"deploy: Job {job}: failed: {text}")


def _stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - Python's interface
    """End the script with its cleanup, which a second signal does not interrupt."""
    for each in STOPS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(EXIT_STOPPED)


def _dump_name(text: str) -> str:
    if not DUMP.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text} is no name of a dump, as 20261126T021700Z is")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = ScriptParser(__doc__)
    parser.add_argument("dump", nargs="?", type=_dump_name, metavar="DUMP")
    return parser


if __name__ == "__main__":
    for number in STOPS:
        signal.signal(number, _stop)
    run_command(lambda: restore(sys.argv[1:]))
