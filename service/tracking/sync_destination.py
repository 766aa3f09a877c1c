"""Where the data of a stored run may be sent, whose spec somebody else may have written.

A spec's server gets the data. But a database or folder of this machine that it names is written
only if it is in the run's own storage path, or if the user names it in MLFLOW_TRACKING_URI.
"""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.paths import sqlite_path
from service.tracking.mlflow_run import MlflowRun, tracking_uri

VARIABLE = "MLFLOW_TRACKING_URI"
# Without a scheme, MLflow takes a path.
FILE_SCHEMES = ("", "file", "sqlite")


def sync_uri(spec: JobSpec) -> str:
    """The tracking URI of a stored run.

    Raises:
        BadInputError: a file outside the storage path that MLFLOW_TRACKING_URI does not name.
    """
    uri = tracking_uri(spec)
    if os.environ.get(VARIABLE) or urlsplit(uri).scheme.split("+")[0] not in FILE_SCHEMES:
        return uri
    path = sqlite_path(uri)
    if path is None or not path.is_absolute() or not _is_in_storage(path, spec):
        _refuse("tracking.uri", f"is {uri}", spec)
    return uri


def check_artifacts(run: MlflowRun, spec: JobSpec) -> None:
    """Check where a database in the storage path says that the run's files are.

    Raises:
        BadInputError: outside the storage path, unless MLFLOW_TRACKING_URI names the database.
    """
    if os.environ.get(VARIABLE) or sqlite_path(run.uri) is None:
        return
    uri = str(run.client.get_run(run.run_id).info.artifact_uri)
    parts = urlsplit(uri)
    if parts.scheme in FILE_SCHEMES and not _is_in_storage(Path(unquote(parts.path)), spec):
        _refuse("tracking", f"stores the run's files in {uri}", spec)


def _is_in_storage(path: Path, spec: JobSpec) -> bool:
    return path.resolve().is_relative_to(spec.checkpoints.storage_path.resolve())


def _refuse(where: str, wrong: str, spec: JobSpec) -> None:
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
