"""What the controller of a run decides: go on after a failure or not, and with how many workers.

Ray's own policies know neither that workers left on purpose nor that a failure will only repeat
itself, and count a cluster's room without what other jobs have of it.
"""

import contextlib
import logging
import time
from collections import Counter
from pathlib import Path

import ray
from ray.train import FailureConfig, ScalingConfig
from ray.train.v2._internal.exceptions import (
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.scaling_policy import (
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
    ScalingPolicy,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerGroupState
from ray.train.v2.api.exceptions import PreemptionError, TrainingFailedError, WorkerGroupError

from service.tracking.journal import FAILURES_NAME, Journal
from service.training.leaving import LeavingError, ask_to_leave, asked_to_leave, forget_request
from service.training.refusal import REFUSAL_NAME

logger = logging.getLogger(__name__)

FAILURES_LIMIT_BYTES = 1_000_000
# Resources of workers that just ended come back one by one.
SETTLE_S = 5.0
WAIT_S = 30.0


class RunFailurePolicy(DefaultFailurePolicy):  # type: ignore[misc]
    """Ray's budgets for what fails; none for workers that saved and left; reasons written down."""

    def __init__(self, failure_config: FailureConfig, run_path: Path):
        super().__init__(failure_config)
        self._run_path = run_path
        self._last_text = ""

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Whether the run goes on from its last checkpoint."""
        if self._is_refused():
            return FailureDecision.RAISE
        left = leaving_reason(training_failed_error)
        if asked_to_leave(self._run_path) == "stop":
            if left is None:
                self._note(failure_text(training_failed_error))
            return FailureDecision.RAISE
        # New workers begin with as many as there is room for, without being asked.
        forget_request(self._run_path, "resize")
        if left is not None:
            self._note(f"workers left: {left}; going on when there is room for them")
            return FailureDecision.RETRY
        decision = super().make_decision(training_failed_error)
        end = "going on from the last checkpoint"
        if decision == FailureDecision.RAISE:
            end = "no more failures are allowed"
        text = f"{failure_text(training_failed_error)}; {end}"
        # Waiting for room is tried, and fails, every minute.
        if isinstance(training_failed_error, WorkerGroupError) or text != self._last_text:
            self._note(text)
        return decision

    def _is_refused(self) -> bool:
        try:
            return (self._run_path / REFUSAL_NAME).exists()
        except OSError:
            return False

    def _note(self, text: str) -> None:
        self._last_text = text
        # Nothing that is wrong with this file may decide about the run.
        with contextlib.suppress(Exception):
            Journal(self._run_path / FAILURES_NAME, FAILURES_LIMIT_BYTES).note(text)


def leaving_reason(error: TrainingFailedError) -> str | None:
    """Why workers left on purpose, if they did."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    reasons = [str(failure) for failure in failures if isinstance(failure, LeavingError)]
    # Only the one that had the reason knows it.
    own = [reason for reason in reasons if not reason.startswith("another worker")]
    return next(iter(own or reasons), None)


def failure_text(error: TrainingFailedError) -> str:
    """One line on what failed: the cause, not what followed from it in other workers."""
    if isinstance(error, PreemptionError):
        return "a node was taken away before the workers had left it"
    if not isinstance(error, WorkerGroupError):
        return _last_line(error)
    ranked = sorted(error.worker_failures.items(), key=lambda item: (_is_echo(item[1]), item[0]))
    rank, failure = ranked[0]
    return f"worker {rank}: {_failure_line(failure)}"


def _failure_line(failure: Exception) -> str:
    if isinstance(failure, WorkerHealthCheckTimeoutError):
        return "did not answer for resources.silence_timeout_s: it hangs, or is cut off"
    if isinstance(failure, WorkerHealthCheckFailedError):
        if "its node has died" in str(failure.health_check_failure):
            return "its node has gone"
        return "its process was killed or crashed; if not by hand, see whether memory ran out"
    if "Timed out" in str(failure):
        return "another worker was silent for resources.collective_timeout_s"
    return f"{type(failure).__name__}: {_last_line(failure)}"


def _is_echo(failure: Exception) -> bool:
    """Whether a failure is what another worker's looks like from here: a broken connection."""
    text = str(failure)
    return not isinstance(
        failure, WorkerHealthCheckFailedError | WorkerHealthCheckTimeoutError
    ) and any(word in text for word in ("gloo", "NCCL", "Connection", "Timed out", "DistBackend"))


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class ElasticPolicy(ScalingPolicy):  # type: ignore[misc]
    """As many workers as there is room for, between the least and the most.

    Room is what nodes have left now, so other jobs count, and what this run's workers still hold
    when they have failed. Where more room is found, the workers are asked to save and leave, and
    begin again with more of them.
    """

    def __init__(self, scaling_config: ScalingConfig, run_path: Path):
        super().__init__(scaling_config)
        self._run_path = run_path
        self._held: Counter[str] = Counter()
        self._room = -1
        self._since_s = self._looked_s = time.monotonic()

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Begin with the most workers at once, with fewer when the room has settled."""
        self._maybe_send_resource_request()
        least, most = self.scaling_config.min_workers, self.scaling_config.max_workers
        free = self._free_room()
        room = min(sum(free.values()) + sum(self._held[node] for node in free), most)
        now_s = time.monotonic()
        if room != self._room:
            self._room, self._since_s = room, now_s
        waited_s = now_s - self._since_s
        if room == most or (room >= least and waited_s >= SETTLE_S):
            return self._begin(room)
        if waited_s >= WAIT_S:
            # Workers that failed before they were ever seen to run may hold the room; Ray ends them
            # when the next ones are to begin.
            return self._begin(least)
        # The controller asks again at once.
        time.sleep(0.5)
        return NoopDecision()

    def make_decision_for_running_worker_group(
        self,
        worker_group_state: WorkerGroupState,
        worker_group_status: WorkerGroupPollStatus,  # noqa: ARG002 - Ray's interface
    ) -> ScalingDecision:
        """Ask the workers to leave where there is room for more; they come back by themselves."""
        self._maybe_send_resource_request()
        self._held = Counter(worker.metadata.node_id for worker in worker_group_state.workers)
        now_s = time.monotonic()
        since_s = max(self._looked_s, worker_group_state.start_time)
        if now_s - since_s >= self.scaling_config.elastic_resize_monitor_interval_s:
            self._looked_s = now_s
            may_grow = worker_group_state.num_workers < self.scaling_config.max_workers
            if may_grow and any(self._free_room().values()):
                with contextlib.suppress(OSError):
                    ask_to_leave(self._run_path, "resize")
        return NoopDecision()

    def _begin(self, num_workers: int) -> ResizeDecision:
        """Start so many; what the ones before them held is free then."""
        self._held, self._room = Counter(), -1
        return ResizeDecision(num_workers, self.scaling_config._resources_per_worker_not_none)

    def _free_room(self) -> dict[str, int]:
        """Workers that fit into what each node has left, but for nodes that are being drained."""
        needed = self.scaling_config._resources_per_worker_not_none
        state = ray._private.state.state
        try:
            draining, resources = state.get_draining_nodes(), state.available_resources_per_node()
        except Exception as error:
            # Ray would end the run for it.
            logger.warning("the cluster does not tell its resources now: %s", error)
            return {}
        return {
            node: min(int(left.get(kind, 0) // count) for kind, count in needed.items() if count)
            for node, left in resources.items()
            if node not in draining
        }

    def _get_num_workers_for_resource_request(self) -> int:
        return int(self.scaling_config.max_workers)
