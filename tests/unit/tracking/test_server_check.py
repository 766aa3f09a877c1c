"""Tracking servers that refuse a run for good, and those that are only away."""

import contextlib
import http.server
import os
import shutil
import socket
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from jobs.distill import main as distill
from service import job as job_module
from service.run.journal import Event
from service.spec.errors import EXIT_BAD_INPUT, BadInputError
from service.spec.loading import parse_spec
from service.tracking import server_check
from service.tracking.mlflow_run import tracking_uri
from service.tracking.server_check import check_server, is_new_database
from service.tracking.tracker import Tracker


@pytest.fixture(autouse=True)
def _no_other_mlflow(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@contextlib.contextmanager
def answering(status, body):
    """Yield the address of a server that gives the same answer to every request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database with an experiment named dtkd."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").create_experiment("dtkd")
    return path


@pytest.fixture
def copied(database, tmp_path):
    return Path(shutil.copy(database, tmp_path / "mlflow.db"))


def test_database_in_a_folder_of_any_name_is_looked_at(make_content, database, tmp_path):
    folder = tmp_path / "a b?c#d%20"
    folder.mkdir()
    shutil.copy(database, folder / "mlflow.db")
    spec = parse_spec(make_content(checkpoints={"storage_path": str(folder)}))
    uri = tracking_uri(spec)
    assert not is_new_database(uri)
    client = MlflowClient(uri)
    client.delete_experiment(client.get_experiment_by_name("dtkd").experiment_id)
    assert problem_of(spec, uri).where == "tracking.experiment"


def make_fifo(path):
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (make_fifo, "not a regular file"),
        (lambda path: path.write_bytes(b"x" * 5000), "not a database"),
        (lambda path: path.write_bytes(b"SQLite format 3\0" + b"x" * 5000), "not a database"),
        (lambda path: path.symlink_to("/etc/passwd"), "not a database"),
    ],
)
def test_file_that_is_no_database_is_refused_at_once(make_content, tmp_path, make, word):
    """MLflow would try again for half a minute, and wait for a FIFO for ever."""
    make(tmp_path / "mlflow.db")
    spec = parse_spec(make_content(checkpoints={"storage_path": str(tmp_path)}))
    start_s = time.monotonic()
    problem = problem_of(spec, tracking_uri(spec))
    assert time.monotonic() - start_s < 5
    assert problem.where == "checkpoints.storage_path"
    assert word in problem.wrong


def problem_of(spec, uri):
    with pytest.raises(BadInputError) as error:
        check_server(spec, uri)
    (problem,) = error.value.problems
    assert "\n" not in str(problem)
    assert "does not answer" not in str(problem)
    return problem


@pytest.mark.parametrize(
    ("status", "body", "texts"),
    [
        (401, b"You are not authenticated", ["You are not auth", "MLFLOW_TRACKING_USERNAME"]),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}', ["DENIED: no", "account"]),
        (404, b"not found", ["not found", "give the address of an MLflow server"]),
        (200, b"<html>hello</html>", ["not in a valid JSON format", "MLflow server"]),
        (200, b"{}", ["is not an MLflow server"]),
    ],
)
def test_answer_that_stays_the_same_is_a_problem(make_content, status, body, texts):
    with answering(status, body) as uri:
        spec = parse_spec(make_content(tracking={"uri": uri}))
        problem = problem_of(spec, uri)
        assert problem.where == "tracking.uri"
        assert all(text in str(problem) for text in [uri, *texts]), str(problem)


@pytest.mark.parametrize("status", [500, 502, 503])
def test_server_that_fails_is_only_away(make_content, status):
    with answering(status, b"oops") as uri:
        note = check_server(parse_spec(make_content()), uri)
        assert note.startswith(f"MLflow at {uri} does not answer (")


def test_refused_connection_is_only_away(make_content):
    note = check_server(parse_spec(make_content()), "http://127.0.0.1:9")
    assert "does not answer" in note


def test_silent_server_is_only_away_and_waited_for_briefly(make_content, monkeypatch):
    monkeypatch.setattr(server_check, "SERVER_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start_s = time.monotonic()
        note = check_server(
            parse_spec(make_content()), f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        assert time.monotonic() - start_s < 5
    assert "does not answer (no answer in 0.5 s)" in note


@pytest.mark.parametrize("uri", ["mlruns", "file:///data/mlruns", "/data/mlruns", "ftp://host/x"])
def test_store_that_mlflow_does_not_support_is_a_problem(make_content, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    problem = problem_of(parse_spec(make_content()), uri)
    assert problem.where == "MLFLOW_TRACKING_URI"
    assert "sqlite:///path/mlflow.db" in problem.remedy


def test_usable_and_new_databases_are_accepted(make_content, copied, tmp_path):
    spec = parse_spec(make_content())
    assert check_server(spec, f"sqlite:///{copied}") is None
    new = tmp_path / "folder" / "new.db"
    assert check_server(spec, f"sqlite:///{new}") is None
    assert not new.parent.exists()


def test_file_that_is_no_database_is_a_problem(make_content, tmp_path):
    spec = parse_spec(make_content())
    text = tmp_path / "text.db"
    text.write_text("no database " * 100)
    assert "file is not a database" in problem_of(spec, f"sqlite:///{text}").wrong
    assert f"{tmp_path} is a folder" in problem_of(spec, f"sqlite:///{tmp_path}").wrong
    assert f"{text} is not a folder" in problem_of(spec, f"sqlite:///{text / 'x.db'}").wrong


def test_database_of_another_version_is_a_problem(make_content, copied):
    with contextlib.closing(sqlite3.connect(copied)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    problem = problem_of(parse_spec(make_content()), f"sqlite:///{copied}")
    assert "451aebb31d03" in problem.wrong
    assert "mlflow db upgrade" in problem.remedy


def test_deleted_run_that_would_be_resumed_is_a_problem(make_content, copied):
    spec, uri = parse_spec(make_content()), f"sqlite:///{copied}"
    client = MlflowClient(uri)
    run_id = client.create_run(client.get_experiment_by_name("dtkd").experiment_id).info.run_id
    spec.run_path.mkdir(parents=True)
    (spec.run_path / "mlflow_run_id").write_text(f"{run_id}\n")
    assert check_server(spec, uri) is None
    client.delete_run(run_id)
    problem = problem_of(spec, uri)
    assert f"run {run_id} of 'run' was deleted" in problem.wrong
    assert f"mlflow runs restore --run-id {run_id}" in problem.remedy


def test_job_in_a_deleted_experiment_is_refused_before_the_cluster_is_used(
    write_spec, copied, monkeypatch, capsys
):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    uri = f"sqlite:///{copied}"
    client = MlflowClient(uri)
    client.delete_experiment(client.get_experiment_by_name("dtkd").experiment_id)
    monkeypatch.setattr(job_module, "build_job", lambda spec: pytest.fail("a model is built"))
    path = write_spec(tracking={"uri": uri})
    for options in ([], ["--plan"]):
        assert distill([str(path), *options]) == EXIT_BAD_INPUT
        printed = capsys.readouterr().err
        assert "tracking.experiment: 'dtkd' was deleted in MLflow" in printed
        assert "mlflow experiments restore" in printed
    assert not (path.parent / "runs" / "run").exists()


def test_refusal_during_a_run_is_logged_with_its_reason(make_content, copied, caplog):
    uri = f"sqlite:///{copied}"
    spec = parse_spec(make_content(tracking={"uri": uri}))
    spec.run_path.mkdir(parents=True)
    client = MlflowClient(uri)
    client.delete_experiment(client.get_experiment_by_name("dtkd").experiment_id)
    shown: list[Event] = []
    tracker = Tracker(spec, uri, {}, shown.append)
    assert tracker.close("stopped") is None
    assert "refuses the run" in caplog.text
    assert "must be in the 'active' state" in caplog.text
    assert "does not answer" not in caplog.text
