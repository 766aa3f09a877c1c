"""Whether a run is tried again after a failure, and the record of its failures."""

import contextlib

from ray.exceptions import RayActorError, RayTaskError
from ray.train import ControllerError, PreemptionError, TrainingFailedError, WorkerGroupError

from service.cluster.failures import cannot_import, failure_text, graceful_stop_reason
from service.cluster.ray_internals import is_dead_worker, is_start_timeout
from service.run.control import clear_request, is_aborted, pending_request
from service.run.journal import FAILURES_NAME, Journal
from service.spec.job import JobSpec

FAILURES_LIMIT_BYTES = 1_000_000
IMPORT_REMEDY = (
    "it would fail again: install the same packages on every node, and start Ray there with the "
    "same PYTHONPATH"
)


class Retries:
    """A run's budget of failures; what is no failure of a worker does not count."""

    def __init__(self, spec: JobSpec):
        self._run_path, self._num_left = spec.run_path, spec.resources.max_failures

    def may_retry(self, error: TrainingFailedError | RayActorError) -> bool:
        """Whether the run is tried again from its last checkpoint; every failure is logged."""
        if isinstance(error, ControllerError) and is_start_timeout(error.controller_failure):
            # Another job was faster. What is waited for next says what is missing.
            return True
        if self._is_aborted():
            return False
        stopped = graceful_stop_reason(error)
        if pending_request(self._run_path) == "stop":
            if stopped is None:
                self._log(failure_text(error, self._run_path))
            return False
        if cannot_import(error, self._run_path):
            self._log(f"{failure_text(error, self._run_path)}; {IMPORT_REMEDY}")
            return False
        # New workers start in as large a number as fits, without a request.
        clear_request(self._run_path, "resize")
        if stopped is not None:
            self._log(f"workers stopped: {stopped}; resuming when resources are free")
            return True
        may_retry = not _counts(error) or self._num_left > 0
        self._num_left -= _counts(error)
        outcome = (
            "resuming from the last checkpoint" if may_retry else "no more failures are allowed"
        )
        self._log(f"{failure_text(error, self._run_path)}; {outcome}")
        return may_retry

    def _is_aborted(self) -> bool:
        try:
            return is_aborted(self._run_path)
        except OSError:
            return False

    def _log(self, text: str) -> None:
        # A failure to write this file must not decide about the run.
        with contextlib.suppress(Exception):
            Journal(self._run_path / FAILURES_NAME, FAILURES_LIMIT_BYTES).note(text)


def _counts(error: TrainingFailedError | RayActorError) -> bool:
    """Whether a worker has failed, and not a node at its start, or one that was drained."""
    if isinstance(error, ControllerError):
        # What a worker's code has raised before it trains is raised again.
        return isinstance(error.controller_failure, RayTaskError)
    if isinstance(error, PreemptionError):
        return False
    if not isinstance(error, WorkerGroupError):
        return True
    return not any(map(_is_preempted, error.worker_failures.values()))


def _is_preempted(failure: Exception) -> bool:
    cause = failure.health_check_failure if is_dead_worker(failure) else failure  # type: ignore[attr-defined]
    return isinstance(cause, RayActorError) and bool(cause.preempted)
