"""A process that cannot import a module is one clear failure, however Ray passes it on."""

import pytest
from ray.exceptions import ActorDiedError, RayActorError, RaySystemError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from service.cluster.retries import Retries
from service.run.journal import FAILURES_NAME, read_events
from service.spec.loading import parse_spec

WHAT = "ModuleNotFoundError: No module named 'absent'"
TRACEBACK = f'Traceback (most recent call last):\n  File "start.py", line 1\n{WHAT}\n'
MISSING = ModuleNotFoundError("No module named 'absent'")


def raised_by_a_task(error, traceback=TRACEBACK):
    """As ray.get raises it."""
    task_error = RayTaskError("start", traceback, error, "title", 1, "127.0.0.1")
    return task_error.make_dual_exception_instance()


# Of workers that import torch to join their process group, that cannot read what they shall call,
# and that train; and of the process that watches the workers.
FAILURES = {
    "at the start": ControllerError(raised_by_a_task(MISSING)),
    "in what is unpickled": ControllerError(
        raised_by_a_task(RaySystemError(MISSING, TRACEBACK), f"{TRACEBACK}\ntraceback: {TRACEBACK}")
    ),
    "in training": WorkerGroupError(
        "failed", {0: RuntimeError("[gloo] Connection closed by peer"), 1: MISSING}
    ),
    "in the controller": ActorDiedError(
        RayTaskError("init", TRACEBACK, MISSING, "title", 1, "127.0.0.1")
    ),
}


@pytest.fixture
def make_retries(make_content):
    def make(max_failures):
        spec = parse_spec(make_content(resources={"max_failures": max_failures}))
        spec.run_path.mkdir(parents=True)
        return Retries(spec), spec.run_path / FAILURES_NAME

    return make


def lines(path):
    return [event.text for event in read_events(path)]


@pytest.mark.parametrize("place", FAILURES)
def test_a_missing_module_is_not_tried_again(make_retries, place):
    retries, path = make_retries(max_failures=5)
    assert not retries.may_retry(FAILURES[place])
    (line,) = lines(path)
    assert WHAT in line
    assert "install the same packages on every node" in line
    assert "\n" not in line


def test_what_followed_from_a_killed_worker_is_tried_again(make_retries):
    """An import that failed since another worker had gone is not the cause."""
    killed = WorkerHealthCheckFailedError("dead", RayActorError())
    retries, path = make_retries(max_failures=1)
    assert retries.may_retry(WorkerGroupError("failed", {0: killed, 1: MISSING}))
    assert "its process was killed" in lines(path)[0]


@pytest.mark.parametrize("max_failures", [0, 2])
def test_what_workers_raise_at_their_start_counts(make_retries, max_failures):
    """Or else it would be raised again and again."""
    traceback = "Traceback:\nValueError: no interface"
    error = ControllerError(raised_by_a_task(ValueError("no interface"), traceback))
    retries, path = make_retries(max_failures)
    outcomes = [retries.may_retry(error) for _ in range(max_failures + 1)]
    assert outcomes == [True] * max_failures + [False]
    assert lines(path)[-1].endswith("no more failures are allowed")
