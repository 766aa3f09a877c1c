"""Keeps MLflow's own lines out of a job's log."""

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.utils.logging_utils import MLFLOW_LOGGING_STREAM


@contextmanager
def mlflow_silenced() -> Iterator[None]:
    """Drop what MLflow prints in the meantime, such as that it has created a version.

    The job says the same in its own words; an error is raised, and does not get lost.
    """
    is_enabled = MLFLOW_LOGGING_STREAM.enabled
    MLFLOW_LOGGING_STREAM.enabled = False
    try:
        yield
    finally:
        MLFLOW_LOGGING_STREAM.enabled = is_enabled
