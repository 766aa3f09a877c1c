"""Asks the tracking server, before anything is trained, whether it would take a run."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException

from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.paths import sqlite_path
from service.tracking.destination import stored_run_id
from service.tracking.refusals import is_refusal, reason_of, remedy_of

SERVER_TIMEOUT_S = 5.0
# Opening a database loads its library, and may wait for a writer.
DATABASE_TIMEOUT_S = 30.0

T = TypeVar("T")


def check_server(spec: JobSpec, uri: str) -> str | None:
    """Check that the tracking server at ``uri`` would take the run of ``spec``.

    Takes a few seconds at most. Returns a note if the server does not answer, which is no reason
    not to train; None if it does.

    Raises:
        BadInputError: the server, or its store, refuses the run for good.
    """
    problem = _database_problem(spec, uri)
    if problem is None and is_new_database(uri):
        return None
    if problem is None:
        try:
            problem = ask(uri, lambda: _server_problem(spec, uri))
        except TimeoutError as error:
            return f"MLflow at {uri} does not answer ({error})"
        except Exception as error:
            if not is_refusal(error):
                return f"MLflow at {uri} does not answer ({reason_of(error)})"
            wrong = f"MLflow at {uri} refuses: {reason_of(error)}"
            problem = Problem(uri_field(spec), wrong, remedy_of(error))
    if problem is not None:
        raise BadInputError("tracking", [problem])
    return None


def ask(uri: str, question: Callable[[], T]) -> T:
    """The answer to a question to the server at ``uri``.

    Raises:
        TimeoutError: there is none after a few seconds; the question goes on in the background.
    """
    timeout_s = SERVER_TIMEOUT_S if uri.startswith("http") else DATABASE_TIMEOUT_S
    answers: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(question())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="mlflow-check", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer in {timeout_s:g} s")
    return answers[0]


def uri_field(spec: JobSpec) -> str:
    """Where the address of the tracking server was given."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return "MLFLOW_TRACKING_URI"
    return "tracking.uri" if spec.tracking.uri else "checkpoints.storage_path"


def is_new_database(uri: str) -> bool:
    """Whether ``uri`` is a SQLite database that MLflow has yet to create."""
    path = sqlite_path(uri)
    return path is not None and not path.exists()


def _database_problem(spec: JobSpec, uri: str) -> Problem | None:
    """What makes a SQLite file unusable; MLflow itself would retry for minutes."""
    path = sqlite_path(uri)
    if path is None:
        return None
    existing = next(entry for entry in (path, *path.absolute().parents) if entry.exists())
    remedy = "give the path of a database in a folder that you may write"
    if existing == path and path.is_dir():
        return Problem(uri_field(spec), f"{path} is a folder", remedy)
    if existing == path and not path.is_file():
        return Problem(uri_field(spec), f"{path} is not a regular file", remedy)
    if existing != path and not existing.is_dir():
        return Problem(uri_field(spec), f"{existing} is not a folder", remedy)
    if not os.access(existing, os.R_OK | os.W_OK):
        return Problem(uri_field(spec), f"{existing} cannot be read and written", remedy)
    if existing == path and (fault := _damage_of(path)):
        return Problem(uri_field(spec), f"{path} is no SQLite database ({fault})", remedy)
    return None


def _damage_of(path: Path) -> str | None:
    """What SQLite says about a file that is damaged, or another program's; None if it is not."""
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as database:
            database.execute("SELECT name FROM sqlite_master").fetchall()
    except sqlite3.DatabaseError as error:
        # Errors of derived classes say that it is locked, or that this process may not open it.
        return str(error) if type(error) is sqlite3.DatabaseError else None
    return None


def _server_problem(spec: JobSpec, uri: str) -> Problem | None:
    client = MlflowClient(uri)
    name = spec.tracking.experiment
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return None
    if experiment.name != name:
        wrong = f"what answers at {uri} is not an MLflow server"
        return Problem(uri_field(spec), wrong, "give the address of one")
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        return Problem(
            "tracking.experiment",
            f"{name!r} was deleted in MLflow at {uri}",
            "use another name, or restore it: mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}",
        )
    return _run_problem(spec, client)


def _run_problem(spec: JobSpec, client: MlflowClient) -> Problem | None:
    """A run that would be resumed, but was deleted in MLflow."""
    run_id = stored_run_id(spec.run_path)
    if run_id is None:
        return None
    try:
        stage = client.get_run(run_id).info.lifecycle_stage
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if stage != LifecycleStage.DELETED:
        return None
    return Problem(
        "name",
        f"MLflow's run {run_id} of {spec.name!r} was deleted",
        f"restore it: mlflow runs restore --run-id {run_id}; or use another name",
    )
