"""Decisions of a run's controller: whether to retry after a failure, and with how many workers.

Ray's own policies retry failures that would only repeat, take workers that stop on purpose for
failed ones, and ignore what other jobs use of a cluster's resources.
"""

import contextlib
import logging
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ray.train import FailureConfig, ScalingConfig
from ray.train.v2.api.exceptions import (
    ControllerError,
    PreemptionError,
    TrainingFailedError,
    WorkerGroupError,
)

from service.cluster.crashes import Crash, read_crash
from service.cluster.ray_internals import (
    DefaultFailurePolicy,
    FailureDecision,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
    ScalingPolicy,
    WorkerGroupPollStatus,
    WorkerGroupStartupTimeoutError,
    WorkerGroupState,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
    free_resources_per_node,
    resources_per_worker,
)
from service.cluster.waiting import must_end, report_need
from service.run.control import (
    GracefulStop,
    clear_request,
    is_aborted,
    pending_request,
    request_resize,
)
from service.run.journal import FAILURES_NAME, Journal

logger = logging.getLogger(__name__)

FAILURES_LIMIT_BYTES = 1_000_000
# Resources of workers that just ended are freed one by one.
SETTLE_S = 5.0
MAX_WAIT_S = 30.0
REPORT_AFTER_S = 1.0
# Errors of a collective operation, which break off where a peer does.
ECHO_WORDS = ("gloo", "NCCL", "Connection", "DistBackend")
TIMEOUT_WORDS = "Timed out"


class FailurePolicy(DefaultFailurePolicy):  # type: ignore[misc]
    """Ray's failure budgets, without graceful stops; every failure is logged."""

    def __init__(self, failure_config: FailureConfig, run_path: Path):
        super().__init__(failure_config)
        self._run_path = run_path

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Whether the run is retried from its last checkpoint."""
        if is_waiting_over(training_failed_error):
            return FailureDecision.RAISE if must_end(self._run_path) else FailureDecision.RETRY
        if self._is_aborted():
            return FailureDecision.RAISE
        stopped = graceful_stop_reason(training_failed_error)
        if pending_request(self._run_path) == "stop":
            if stopped is None:
                self._log(failure_text(training_failed_error, self._run_path))
            return FailureDecision.RAISE
        # New workers start in as large a number as fits, without a request.
        clear_request(self._run_path, "resize")
        if stopped is not None:
            self._log(f"workers stopped: {stopped}; resuming when resources are free")
            return FailureDecision.RETRY
        decision = super().make_decision(training_failed_error)
        outcome = "resuming from the last checkpoint"
        if decision == FailureDecision.RAISE:
            outcome = "no more failures are allowed"
        text = f"{failure_text(training_failed_error, self._run_path)}; {outcome}"
        self._log(text)
        return decision

    def _is_aborted(self) -> bool:
        try:
            return is_aborted(self._run_path)
        except OSError:
            return False

    def _log(self, text: str) -> None:
        # A failure to write this file must not decide about the run.
        with contextlib.suppress(Exception):
            Journal(self._run_path / FAILURES_NAME, FAILURES_LIMIT_BYTES).note(text)


def is_waiting_over(error: TrainingFailedError) -> bool:
    """Whether no worker failed: there was no room for them in time, or a stop was requested."""
    return isinstance(error, ControllerError) and isinstance(
        error.controller_failure, WorkerGroupStartupTimeoutError
    )


def graceful_stop_reason(error: TrainingFailedError) -> str | None:
    """Why workers stopped on purpose, if they did."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    reasons = [str(failure) for failure in failures if isinstance(failure, GracefulStop)]
    # Only the worker that had a reason of its own reports it.
    own = [reason for reason in reasons if not reason.startswith("another worker")]
    return next(iter(own or reasons), None)


def failure_text(error: TrainingFailedError, run_path: Path) -> str:
    """One line about a failure: its cause, not what followed from it in other workers.

    ``run_path``: the run's folder, where workers leave how they crashed.
    """
    if isinstance(error, PreemptionError):
        return "a node was taken away before its workers had stopped"
    if not isinstance(error, WorkerGroupError):
        return _last_line(error)
    failures = [
        WorkerFailure(rank, failure, _crash_of(failure, run_path, rank))
        for rank, failure in error.worker_failures.items()
    ]
    return str(min(failures, key=lambda one: (one.distance, one.rank)))


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
        if isinstance(self.error, WorkerHealthCheckFailedError | WorkerHealthCheckTimeoutError):
            return 0
        if TIMEOUT_WORDS in text:
            return 2
        return 3 if any(word in text for word in ECHO_WORDS) else 0

    def __str__(self) -> str:
        line = _failure_line(self.error) if self.crash is None else _crash_line(self.crash)
        return f"worker {self.rank}: {line}"


def _crash_of(failure: Exception, run_path: Path, rank: int) -> Crash | None:
    # A worker that raised is alive; what an earlier one left there is not its own.
    is_dead = isinstance(failure, WorkerHealthCheckFailedError)
    return read_crash(run_path, rank) if is_dead else None


def _crash_line(crash: Crash) -> str:
    if crash.is_abort:
        return (
            "its process was aborted (SIGABRT), by native code or, on GPUs, by NCCL's watchdog "
            f"after another worker did not respond; see {crash.path}"
        )
    return f"its process crashed in native code ({crash.cause}); see {crash.path}"


def _failure_line(failure: Exception) -> str:
    if isinstance(failure, WorkerHealthCheckTimeoutError):
        return "did not answer for resources.heartbeat_timeout_s: it hangs, or its network is down"
    if isinstance(failure, WorkerHealthCheckFailedError):
        if "its node has died" in str(failure.health_check_failure):
            return "its node died"
        return "its process was killed; if not on purpose, check its memory"
    if TIMEOUT_WORDS in str(failure):
        return "another worker did not respond for resources.collective_timeout_s"
    return f"{type(failure).__name__}: {_last_line(failure)}"


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class ElasticPolicy(ScalingPolicy):  # type: ignore[misc]
    """As many workers as fit, within the spec's range.

    What counts is the resources that are free on the nodes now, beside other jobs, and what this
    run's failed workers still hold. Where more workers would fit, a resize is requested: the
    workers save, stop, and start again in a larger number.
    """

    def __init__(self, scaling_config: ScalingConfig, run_path: Path):
        super().__init__(scaling_config)
        self._run_path = run_path
        self._held: Counter[str] = Counter()
        self._num_fitting = -1
        self._since_s = self._checked_s = time.monotonic()

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start the most workers at once, or fewer when the number that fits has settled."""
        self._maybe_send_resource_request()
        low, high = self.scaling_config.min_workers, self.scaling_config.max_workers
        free = self._num_fitting_per_node()
        fitting = min(sum(free.values()) + sum(self._held[node] for node in free), high)
        now_s = time.monotonic()
        if fitting != self._num_fitting:
            self._num_fitting, self._since_s = fitting, now_s
        waited_s = now_s - self._since_s
        if fitting == high or (fitting >= low and waited_s >= SETTLE_S):
            return self._start(fitting)
        if waited_s >= MAX_WAIT_S or must_end(self._run_path):
            # Workers that failed before they were ever polled may hold resources; Ray ends them
            # when it starts the next ones.
            return self._start(low)
        if fitting < low and waited_s >= REPORT_AFTER_S:
            report_need(self._run_path, low, resources_per_worker(self.scaling_config))
        # The controller calls again at once.
        time.sleep(0.5)
        return NoopDecision()

    def make_decision_for_running_worker_group(
        self,
        worker_group_state: WorkerGroupState,
        worker_group_status: WorkerGroupPollStatus,  # noqa: ARG002 - Ray's interface
    ) -> ScalingDecision:
        """Request a resize where more workers would fit; Ray then restarts the stopped workers."""
        self._maybe_send_resource_request()
        self._held = Counter(worker.metadata.node_id for worker in worker_group_state.workers)
        now_s = time.monotonic()
        since_s = max(self._checked_s, worker_group_state.start_time)
        if now_s - since_s >= self.scaling_config.elastic_resize_monitor_interval_s:
            self._checked_s = now_s
            may_grow = worker_group_state.num_workers < self.scaling_config.max_workers
            if may_grow and any(self._num_fitting_per_node().values()):
                with contextlib.suppress(OSError):
                    request_resize(self._run_path)
        return NoopDecision()

    def _start(self, num_workers: int) -> ResizeDecision:
        """Start this many workers; what earlier ones held is free by then."""
        self._held, self._num_fitting = Counter(), -1
        return ResizeDecision(num_workers, resources_per_worker(self.scaling_config))

    def _num_fitting_per_node(self) -> dict[str, int]:
        """Workers that fit into what each node has free, without nodes that are being drained."""
        needed = resources_per_worker(self.scaling_config)
        try:
            resources = free_resources_per_node()
        except Exception as error:
            # Ray would end the run for it.
            logger.warning("the cluster does not report its resources now: %s", error)
            return {}
        return {
            node: min(int(free.get(kind, 0) // count) for kind, count in needed.items() if count)
            for node, free in resources.items()
        }

    def _get_num_workers_for_resource_request(self) -> int:
        return int(self.scaling_config.max_workers)
