"""Control files in a run's folder: requests to stop or resize it, and the reason it was aborted.

Whoever wants the workers to stop writes a request file; rank 0 watches for it, and all workers
save one checkpoint and exit together. A run that would only fail again in the same way leaves an
abort file instead, which every process of the run respects: it is not retried.
"""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, NoReturn

from pydantic import Field

from data_pipeline.files import retry_io, write_atomically
from service.run.polling import PollingThread
from service.run.state_files import read_if_usable
from service.spec.errors import EXIT_BAD_INPUT, EXIT_FAILED

REQUEST_PREFIX = ".request_"
ABORT_NAME = "abort.json"
POLL_S = 0.25

Request = Literal["stop", "resize"]
REQUESTS: tuple[Request, ...] = ("stop", "resize")

StopNotice = Callable[[], str | None]
"""Returns why this worker must stop soon (a signal, a drained node), or None."""


class GracefulStop(Exception):  # noqa: N818 - control flow like StopIteration, not an error
    """Ends every worker after the checkpoint that was requested; the message says why."""


class RunAbortedError(Exception):
    """Ends a worker whose run was aborted; all ranks raise it together."""


class AbortReason(NamedTuple):
    """Why a run was aborted, and the exit status that its job ends with."""

    text: str
    exit_status: Annotated[int, Field(ge=1, le=255)]


def request_stop(run_path: Path) -> None:
    """Ask the workers to save and exit, until the spec is submitted again.

    Raises:
        OSError: the request cannot be written.
    """
    write_atomically(_request_path(run_path, "stop"), "")


def request_resize(run_path: Path) -> None:
    """Ask the workers to save and exit, and to start again at once in another number.

    Raises:
        OSError: the request cannot be written.
    """
    write_atomically(_request_path(run_path, "resize"), "")


def pending_request(run_path: Path) -> Request | None:
    """The request that is pending, if any; a stop takes precedence over a resize."""
    for request in REQUESTS:
        with contextlib.suppress(OSError):
            if _request_path(run_path, request).exists():
                return request
    return None


def clear_request(run_path: Path, request: Request) -> None:
    """Remove a request that was served, or that new workers must not see.

    Where the storage fails it stays, and the next workers save and exit once more.
    """
    with contextlib.suppress(OSError):
        _request_path(run_path, request).unlink(missing_ok=True)


def _request_path(run_path: Path, request: Request) -> Path:
    return run_path / f"{REQUEST_PREFIX}{request}"


class RequestWatcher:
    """Polls for requests on a thread of its own, so that slow storage delays no step."""

    def __init__(self, run_path: Path):
        self._run_path = run_path
        self.request: Request | None = None
        """The request that is pending, if any."""
        self._thread = PollingThread("requests", POLL_S, self._poll)

    def close(self) -> None:
        """End the thread."""
        self._thread.close()

    def _poll(self) -> None:
        self.request = pending_request(self._run_path)


def abort_run(run_path: Path, rank: int, text: str, exit_status: int = EXIT_BAD_INPUT) -> NoReturn:
    """Abort a run; every rank calls this together, and rank 0 writes the reason.

    Raises:
        RunAbortedError: always, on every rank.
        OSError: rank 0 cannot write the reason.
    """
    if rank == 0:
        write_abort_reason(run_path, text, exit_status)
    raise RunAbortedError(text)


def write_abort_reason(run_path: Path, text: str, exit_status: int) -> None:
    """Write why the run must not be retried; a worker that fails alone does so before it raises.

    Raises:
        OSError: the storage fails, after retries too.
    """
    content = json.dumps({"text": text, "exit_status": exit_status}) + "\n"
    retry_io(lambda: write_atomically(run_path / ABORT_NAME, content))


def is_aborted(run_path: Path) -> bool:
    """Whether a run was aborted.

    Raises:
        OSError: the storage fails.
    """
    return (run_path / ABORT_NAME).exists()


def read_abort_reason(run_path: Path) -> AbortReason | None:
    """Why a run was aborted; None if it was not.

    Raises:
        OSError: the storage fails.
    """
    if not is_aborted(run_path):
        return None
    reason = read_if_usable(run_path / ABORT_NAME, AbortReason)
    return reason or AbortReason(f"{run_path / ABORT_NAME} does not say why", EXIT_FAILED)


def clear_abort(run_path: Path) -> None:
    """Forget an earlier submission's abort: what caused it may have been fixed."""
    (run_path / ABORT_NAME).unlink(missing_ok=True)
