"""Where the data of a stored run may be sent, whose spec somebody else may have written.

A spec's server gets the data. But a database or folder of this machine that it names is written
only if it is in the run's own storage path, or if the user names it in MLFLOW_TRACKING_URI.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.paths import sqlite_path
from service.tracking.destination import DESTINATION_NAME, is_destination, stored_run_id
from service.tracking.mlflow_run import MlflowRun, create_sqlite_file, tracking_uri

VARIABLE = "MLFLOW_TRACKING_URI"
# Without a scheme, MLflow takes a path.
FILE_SCHEMES = ("", "file", "sqlite")


class RunGoneError(Exception):
    """A run that was logged to MLflow is not there any more."""


class SyncDestination(NamedTuple):
    """``storage_path``: where a database, and the files that it knows of, must be.

    None if the user names the destination in MLFLOW_TRACKING_URI.
    """

    uri: str
    storage_path: Path | None


@contextlib.contextmanager
def tracking_kept() -> Iterator[None]:
    """Restore the tracking URI of this process: MLflow stores the one it uses in the variable."""
    before = os.environ.get(VARIABLE)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def sync_destination(spec: JobSpec) -> SyncDestination:
    """Where a stored run is sent.

    Raises:
        BadInputError: a file outside the storage path that MLFLOW_TRACKING_URI does not name.
    """
    uri, storage_path = tracking_uri(spec), spec.checkpoints.storage_path
    if os.environ.get(VARIABLE):
        return SyncDestination(uri, None)
    if urlsplit(uri).scheme.split("+")[0] in FILE_SCHEMES:
        path = sqlite_path(uri)
        if path is None or not path.is_absolute() or not _is_within(path, storage_path):
            _refuse("tracking.uri", f"is {uri}", spec.name, storage_path)
    return SyncDestination(uri, storage_path)


def check_artifacts(run: MlflowRun, spec: JobSpec, destination: SyncDestination) -> None:
    """Check where a database in the destination's storage path says that the run's files are.

    Raises:
        BadInputError: outside the storage path, unless MLFLOW_TRACKING_URI names the database.
    """
    storage_path = destination.storage_path
    if storage_path is None or sqlite_path(run.uri) is None:
        return
    uri = str(run.client.get_run(run.run_id).info.artifact_uri)
    parts = urlsplit(uri)
    if parts.scheme in FILE_SCHEMES and not _is_within(Path(unquote(parts.path)), storage_path):
        _refuse("tracking", f"stores the run's files in {uri}", spec.name, storage_path)


def check_run(spec: JobSpec, uri: str) -> None:
    """Check that MLflow still has the run that was logged there, if one was.

    Raises:
        RunGoneError: it was deleted.
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    run_id = stored_run_id(spec.run_path)
    if run_id is None or not is_destination(spec, uri):
        return
    create_sqlite_file(uri)
    try:
        is_there = MlflowClient(uri).get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        is_there = False
    if not is_there:
        raise RunGoneError(
            f"its run {run_id} was deleted there; restore it (mlflow runs restore --run-id "
            f"{run_id}), or remove {spec.run_path / DESTINATION_NAME} to log it anew"
        )


def _is_within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _refuse(where: str, wrong: str, name: str, storage_path: Path) -> NoReturn:
    remedy = f"set {VARIABLE} to the database or server that is meant"
    raise BadInputError(name, [Problem(where, f"{wrong}, outside of {storage_path}", remedy)])
