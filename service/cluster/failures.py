"""The text about a failure: its cause, not what followed from it in other workers."""

from pathlib import Path
from typing import NamedTuple

from ray.exceptions import RayActorError, RayTaskError
from ray.train import PreemptionError, TrainingFailedError, WorkerGroupError

from service.cluster.crashes import Crash, read_crash
from service.cluster.ray_internals import is_dead_worker, is_silent_worker
from service.run.control import GracefulStop

# Words in the errors of workers that lost the connection to one that failed.
ECHO_WORDS = ("gloo", "NCCL", "Connection", "DistBackend")
TIMEOUT_WORDS = "Timed out"
IMPORT_ERRORS = ("ModuleNotFoundError: ", "ImportError: ")
HANG_TEXT = "did not answer for resources.heartbeat_timeout_s: it hangs, or its network is down"
KILLED_TEXT = "its process was killed; if not on purpose, check its memory"


def graceful_stop_reason(error: TrainingFailedError | RayActorError) -> str | None:
    """Why workers stopped on purpose, if they did."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    reasons = [str(failure) for failure in failures if isinstance(failure, GracefulStop)]
    # Only the worker that had a reason of its own reports it.
    own = [reason for reason in reasons if not reason.startswith("another worker")]
    return next(iter(own or reasons), None)


def failure_text(error: TrainingFailedError | RayActorError, run_path: Path) -> str:
    """One line about a failure: its cause, not what followed from it in other workers.

    ``run_path``: the run's folder, where workers leave how they crashed.
    """
    if isinstance(error, PreemptionError):
        return "a node was taken away before its workers had stopped"
    if (line := _import_error(error)) and not isinstance(error, WorkerGroupError):
        return f"a process of the job did not start: {line}"
    if isinstance(error, RayActorError):
        return "the process that watches the workers died; if not on purpose, check its memory"
    if not isinstance(error, WorkerGroupError):
        return _last_line(error)
    return str(_cause(error, run_path))


def cannot_import(error: TrainingFailedError | RayActorError, run_path: Path) -> bool:
    """Whether a process lacks a module, or what is in it: another one would lack it, too."""
    if isinstance(error, WorkerGroupError):
        return _import_error(_cause(error, run_path).error) is not None
    return _import_error(error) is not None


def _cause(error: WorkerGroupError, run_path: Path) -> "WorkerFailure":
    failures = [
        WorkerFailure(rank, failure, _crash_of(failure, run_path, rank))
        for rank, failure in error.worker_failures.items()
    ]
    return min(failures, key=lambda one: (one.distance, one.rank))


def _import_error(error: Exception) -> str | None:
    """The line of an ImportError, which Ray may have wrapped: it then ends in its traceback."""
    line = _last_line(error)
    if isinstance(error, ImportError) and not isinstance(error, RayTaskError):
        line = f"{type(error).__name__}: {line}"
    return line if line.startswith(IMPORT_ERRORS) else None


class WorkerFailure(NamedTuple):
    """How one worker failed; ``crash``: what its process left, if it died of a signal."""

    rank: int
    error: Exception
    crash: Crash | None

    @property
    def distance(self) -> int:
        """From the cause: 0 is a cause; higher ones may be effects of another worker's failure."""
        text = str(self.error)
        if self.crash is not None:
            return 1 if self.crash.is_abort else 0
        if is_dead_worker(self.error) or is_silent_worker(self.error):
            return 0
        if TIMEOUT_WORDS in text:
            return 2
        return 3 if any(word in text for word in ECHO_WORDS) else 0

    def __str__(self) -> str:
        line = _failure_line(self.error) if self.crash is None else crash_line(self.crash)
        return f"worker {self.rank}: {line}"


def _crash_of(failure: Exception, run_path: Path, rank: int) -> Crash | None:
    # A worker that raised is alive; what an earlier one left there is not its own.
    return read_crash(run_path, rank) if is_dead_worker(failure) else None


def crash_line(crash: Crash) -> str:
    """How a worker's process crashed, and where its stack is."""
    if crash.is_abort:
        return (
            "its process was aborted (SIGABRT), by native code or, on GPUs, by NCCL's watchdog "
            f"after another worker did not respond; see {crash.path}"
        )
    return f"its process crashed in native code ({crash.cause}); see {crash.path}"


def _failure_line(failure: Exception) -> str:
    if is_silent_worker(failure):
        return HANG_TEXT
    if is_dead_worker(failure):
        if "its node has died" in str(failure):
            return "its node died"
        return KILLED_TEXT
    if TIMEOUT_WORDS in str(failure):
        return "another worker did not respond for resources.collective_timeout_s"
    return f"{type(failure).__name__}: {_last_line(failure)}"


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
