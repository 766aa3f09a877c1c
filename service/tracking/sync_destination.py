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
    """``is_named``: whether MLFLOW_TRACKING_URI names it, and not the run's spec."""

    uri: str
    is_named: bool


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
    found = SyncDestination(tracking_uri(spec), is_named=bool(os.environ.get(VARIABLE)))
    if found.is_named or urlsplit(found.uri).scheme.split("+")[0] not in FILE_SCHEMES:
        return found
    path = sqlite_path(found.uri)
    if path is None or not path.is_absolute() or not _is_in_storage(path, spec):
        _refuse("tracking.uri", f"is {found.uri}", spec)
    return found


def check_artifacts(run: MlflowRun, spec: JobSpec, destination: SyncDestination) -> None:
    """Check where a database in the storage path says that the run's files are.

    Raises:
        BadInputError: outside the storage path, unless MLFLOW_TRACKING_URI names the database.
    """
    if destination.is_named or sqlite_path(run.uri) is None:
        return
    uri = str(run.client.get_run(run.run_id).info.artifact_uri)
    parts = urlsplit(uri)
    if parts.scheme in FILE_SCHEMES and not _is_in_storage(Path(unquote(parts.path)), spec):
        _refuse("tracking", f"stores the run's files in {uri}", spec)


def _is_in_storage(path: Path, spec: JobSpec) -> bool:
    return path.resolve().is_relative_to(spec.checkpoints.storage_path.resolve())


def _refuse(where: str, wrong: str, spec: JobSpec) -> NoReturn:
    raise BadInputError(
        spec.name,
        [
            Problem(
                where,
                f"{wrong}, outside of {spec.checkpoints.storage_path}",
                f"set {VARIABLE} to the database or server that is meant",
            )
        ],
    )
