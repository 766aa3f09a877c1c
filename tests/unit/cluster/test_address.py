"""A RAY_ADDRESS that leads nowhere is refused in seconds, before anything is fetched or written."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from jobs.distill import main as distill
from jobs.sweep import main as sweep
from service.cluster import address
from service.spec.errors import EXIT_BAD_INPUT, BadInputError

TIMEOUT_S = 1.0


@pytest.fixture(autouse=True)
def _short_timeout(monkeypatch):
    monkeypatch.setattr(address, "ANSWER_TIMEOUT_S", TIMEOUT_S)


@pytest.fixture
def unused_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]


@pytest.fixture
def silent_port():
    """A port that accepts connections and never answers."""
    with socket.socket() as silent:
        silent.bind(("", 0))
        silent.listen()
        yield silent.getsockname()[1]


def refusal(monkeypatch, value):
    """The one problem that is reported, and how long it took."""
    monkeypatch.setenv("RAY_ADDRESS", value)
    start_s = time.monotonic()
    with pytest.raises(BadInputError) as caught:
        address.check_address()
    (problem,) = caught.value.problems
    assert problem.where == "RAY_ADDRESS"
    return problem, time.monotonic() - start_s


@pytest.mark.parametrize(
    "value",
    [
        "http://127.0.0.1:8265",
        "https://cluster",
        "ray://127.0.0.1:10001",
        "garbage",
        "host:port",
        ":6379",
        "host:",
        "127.0.0.1:70000",
    ],
)
def test_what_is_no_address_is_refused_without_waiting(monkeypatch, value):
    problem, seconds = refusal(monkeypatch, value)

    assert value in problem.wrong
    assert "HOST:PORT" in problem.remedy
    assert seconds < TIMEOUT_S


def test_address_without_a_cluster_is_refused_in_time(monkeypatch, unused_port):
    problem, seconds = refusal(monkeypatch, f"127.0.0.1:{unused_port}")

    assert f"no cluster answers at 127.0.0.1:{unused_port}" in problem.wrong
    assert "RAY_ADDRESS=local" in problem.remedy
    assert seconds < 5 * TIMEOUT_S


def test_listener_that_never_answers_is_refused_in_time(monkeypatch, silent_port):
    problem, seconds = refusal(monkeypatch, f"127.0.0.1:{silent_port}")

    assert "no cluster answers" in problem.wrong
    assert seconds < 5 * TIMEOUT_S


def test_server_that_starts_late_is_waited_for_and_must_be_of_ray(monkeypatch):
    """A gRPC server without Ray's services, such as Ray's client server."""
    monkeypatch.setattr(address, "ANSWER_TIMEOUT_S", 30.0)
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("0.0.0.0:0")
    timer = threading.Timer(1.0, server.start)
    timer.start()

    problem, seconds = refusal(monkeypatch, f"127.0.0.1:{port}")

    timer.join()
    server.stop(None)
    assert "is not a cluster's control service" in problem.wrong
    assert seconds >= 1.0


@pytest.mark.parametrize("value", ["local", None])
def test_cluster_that_is_to_be_started_here_needs_no_address(monkeypatch, value):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if value is not None:
        monkeypatch.setenv("RAY_ADDRESS", value)
    monkeypatch.setattr(address, "cluster_address", lambda: None)

    address.check_address()


def test_jobs_are_refused_before_weights_are_fetched(
    monkeypatch, unused_port, write_spec, make_sweep_content, teacher, tmp_path, capsys
):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{unused_port}")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for module in ("service.job", "service.sweep.job"):
        monkeypatch.setattr(f"{module}.build_job", lambda *_: pytest.fail("it was built"))
    sweep_path = tmp_path / "sweep.json"
    sweep_path.write_text(json.dumps(make_sweep_content()))

    assert distill([str(write_spec(teacher=teacher))]) == EXIT_BAD_INPUT
    assert sweep([str(sweep_path)]) == EXIT_BAD_INPUT

    errors = capsys.readouterr().err
    assert errors.count("RAY_ADDRESS: no cluster answers") == 2
    assert list((tmp_path / "runs").iterdir()) == []
