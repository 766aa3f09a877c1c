"""SIGTERM and a node that is drained are reasons to stop, until they are over."""

import os
import signal
import time
from types import SimpleNamespace

import pytest

from service.cluster import worker_process
from service.cluster.sigterm import install_sigterm_handler
from service.cluster.worker_process import StopNotices, reset_process
from service.run.control import GracefulStop, request_stop
from service.spec.loading import parse_spec
from service.trials import local_run

LIMIT_S = 20.0


@pytest.fixture
def draining(monkeypatch):
    """The ids of the nodes that are being drained; this process is on the node "here"."""
    nodes = set()
    context = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(worker_process.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(worker_process, "draining_nodes", lambda: nodes)
    monkeypatch.setattr(worker_process, "DRAIN_POLL_S", 0.01)
    monkeypatch.setattr(local_run, "DRAIN_POLL_S", 0.01)
    return nodes


@pytest.fixture
def notices(draining):
    notices = StopNotices()
    yield notices
    notices.close()


def wait_until(condition):
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_only_the_node_of_this_process_counts(draining, notices):
    draining.add("elsewhere")
    time.sleep(0.1)
    assert notices.read() is None
    draining.add("here")
    wait_until(lambda: notices.read() == "a node is being drained")
    draining.clear()
    wait_until(lambda: notices.read() is None)


def test_cluster_that_does_not_answer_is_no_notice(notices, monkeypatch):
    def fail():
        raise ConnectionError

    monkeypatch.setattr(worker_process, "draining_nodes", fail)
    assert not worker_process.is_node_drained()
    assert notices.read() is None


def test_sigterm_is_a_notice_until_the_next_run(notices):
    before = signal.getsignal(signal.SIGTERM)
    try:
        install_sigterm_handler()
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: notices.read() == "a worker received SIGTERM")
        reset_process()
        assert notices.read() is None
    finally:
        signal.signal(signal.SIGTERM, before)


def test_trial_goes_on_after_a_stop_but_not_on_a_node_that_is_drained(
    draining, make_content, monkeypatch
):
    spec = parse_spec(make_content())
    spec.run_path.mkdir(parents=True)
    calls = []

    def train(*_):
        calls.append(len(draining))
        if len(calls) == 1:
            draining.add("here")
            raise GracefulStop("a node is being drained")

    def end_of_drain(_):
        draining.clear()

    monkeypatch.setattr(local_run, "train_as", train)
    monkeypatch.setattr(local_run.time, "sleep", end_of_drain)
    local_run.train_here(spec)
    assert calls == [0, 0]


def test_trial_is_stopped_while_it_waits_for_the_end_of_its_node(
    draining, make_content, monkeypatch
):
    spec = parse_spec(make_content())
    spec.run_path.mkdir(parents=True)

    def train(*_):
        draining.add("here")
        raise GracefulStop("a node is being drained")

    monkeypatch.setattr(local_run, "train_as", train)
    monkeypatch.setattr(local_run.time, "sleep", lambda _: request_stop(spec.run_path))
    with pytest.raises(GracefulStop, match="a stop was requested"):
        local_run.train_here(spec)
