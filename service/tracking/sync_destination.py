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

from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.paths import sqlite_path
from service.tracking.mlflow_run import MlflowRun, tracking_uri

VARIABLE = "MLFLOW_TRACKING_URI"
# Without a scheme, MLflow takes a path.
FILE_SCHEMES = ("", "file", "sqlite")


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


def _is_within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _refuse(where: str, wrong: str, name: str, storage_path: Path) -> NoReturn:
    remedy = f"set {VARIABLE} to the database or server that is meant"
    raise BadInputError(name, [Problem(where, f"{wrong}, outside of {storage_path}", remedy)])
