"""Which failures of a run are retried, and which of them count."""

import pytest
from ray.exceptions import RayActorError
from ray.train import ControllerError, PreemptionError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2.api.preemption import PreemptionInfo

from service.cluster.retries import Retries
from service.run.control import (
    GracefulStop,
    pending_request,
    request_resize,
    request_stop,
    write_abort_reason,
)
from service.run.journal import FAILURES_NAME, read_events
from service.spec.loading import parse_spec

RAISED = WorkerGroupError("failed", {1: RuntimeError("injected")})
STOPPED = WorkerGroupError(
    "stopped", {0: GracefulStop("another worker must stop"), 1: GracefulStop("SIGTERM")}
)
NO_ROOM = ControllerError(WorkerGroupStartupTimeoutError(2))
MAX_FAILURES = 2


def of_a_drained_node():
    """A worker's death on a node that was taken away, and what followed from it in another."""
    error = RayActorError()
    error._preempted = True
    dead = WorkerHealthCheckFailedError("dead", error)
    return WorkerGroupError("died", {0: RuntimeError("broken"), 1: dead})


NOT_COUNTED = {
    "no room in time": NO_ROOM,
    "start failed": ControllerError(WorkerGroupStartupFailedError("a node died")),
    "stopped on purpose": STOPPED,
    "node taken away": PreemptionError(PreemptionInfo(None, {})),
    "worker on a drained node": of_a_drained_node(),
}


@pytest.fixture
def spec(make_content):
    spec = parse_spec(make_content(resources={"max_failures": MAX_FAILURES}))
    spec.run_path.mkdir(parents=True)
    return spec


def texts(spec):
    path = spec.run_path / FAILURES_NAME
    return [event.text for event in read_events(path)] if path.exists() else []


@pytest.mark.parametrize("error", [RAISED, RayActorError()], ids=["worker", "controller"])
def test_failures_are_retried_as_often_as_the_spec_says(spec, error):
    retries = Retries(spec)
    assert [retries.may_retry(error) for _ in range(MAX_FAILURES + 1)] == [True, True, False]
    assert [text.rpartition("; ")[2] for text in texts(spec)] == [
        "resuming from the last checkpoint",
        "resuming from the last checkpoint",
        "no more failures are allowed",
    ]


@pytest.mark.parametrize("kind", NOT_COUNTED)
def test_what_is_no_failure_of_a_worker_does_not_count(spec, kind):
    retries = Retries(spec)
    assert all(retries.may_retry(NOT_COUNTED[kind]) for _ in range(MAX_FAILURES + 5))
    assert [retries.may_retry(RAISED) for _ in range(MAX_FAILURES + 1)] == [True, True, False]


def test_waiting_for_room_is_not_recorded_as_a_failure(spec):
    Retries(spec).may_retry(NO_ROOM)
    assert texts(spec) == []


def test_graceful_stop_says_why_and_serves_the_request(spec):
    request_resize(spec.run_path)
    assert Retries(spec).may_retry(STOPPED)
    assert texts(spec) == ["workers stopped: SIGTERM; resuming when resources are free"]
    assert pending_request(spec.run_path) is None


def test_nothing_is_retried_once_a_stop_is_requested(spec):
    request_stop(spec.run_path)
    assert not Retries(spec).may_retry(STOPPED)
    assert texts(spec) == []
    assert not Retries(spec).may_retry(RAISED)
    assert texts(spec) == ["worker 1: RuntimeError: injected"]


def test_aborted_run_is_not_retried(spec):
    write_abort_reason(spec.run_path, "it would fail again", 2)
    assert not Retries(spec).may_retry(RAISED)
    assert texts(spec) == []
