"""Registers a run's student as a version of a model, once, and promotes it if it passes the bar."""

from typing import NamedTuple

import mlflow
from mlflow import MlflowClient

from service.run.folder import read_tags
from service.run.result import RunResult, last_top1_text
from service.spec.job import JobSpec
from service.tracking.markdown import escaped, limited
from service.tracking.mlflow_run import MlflowRun
from service.tracking.promotion import PROMOTION_TAG, promote
from service.tracking.promotion_bar import figures_tags
from service.tracking.quiet import mlflow_silenced
from service.tracking.student_model import LoggedStudent

# Tag of a registered version: the run that it came from.
RUN_TAG = "trained_by_run"
# The column of MLflow's databases; SQLite alone accepts more.
MAX_DESCRIPTION_LENGTH = 5000
MODEL_DESCRIPTION = (
    "Image classifiers trained with dtkd-service. Each version has a card with its figures, its "
    "training and its limits; the tag promotion says why an alias was moved to it, or not."
)


class RegisteredStudent(NamedTuple):
    """A version of a registered model; ``promotion``: what was decided, None without a bar."""

    name: str
    version: str
    promotion: str | None


def register_student(
    run: MlflowRun, spec: JobSpec, logged: LoggedStudent, result: RunResult
) -> RegisteredStudent | None:
    """Register the student that was logged, with its card; None where the spec does not say so.

    ``result``: of the run; only an accuracy on val counts for a promotion. Repeated calls find the
    same version, and the same decision about its promotion.

    Raises:
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    name, promotion = spec.tracking.register_as, spec.tracking.promote
    if name is None:
        return None
    version = _find_version(run, name)
    if version is None:
        fingerprint = read_tags(spec.run_path).get("dataset_val_fingerprint")
        val_top1 = result.progress.last_top1 if result.evaluated == "val" else None
        tags = {RUN_TAG: run.run_id, **figures_tags(val_top1, fingerprint)}
        with mlflow_silenced():
            version = str(mlflow.register_model(logged.uri, name, tags=tags).version)
    # The list of versions shows the first line.
    summary = f"{escaped(spec.name)}, top-1 {last_top1_text(result)}"
    _describe(run.client, name, version, f"{summary}\n\n{logged.readme}")
    if promotion is None:
        return RegisteredStudent(name, version, None)
    decision = promote(run.client, name, version, promotion)
    run.set_tags({PROMOTION_TAG: decision})
    return RegisteredStudent(name, version, decision)


def _describe(client: MlflowClient, name: str, version: str, text: str) -> None:
    """Describe a version and its model, unless somebody has."""
    if not client.get_model_version(name, version).description:
        client.update_model_version(name, version, limited(text, MAX_DESCRIPTION_LENGTH))
    if not client.get_registered_model(name).description:
        client.update_registered_model(name, MODEL_DESCRIPTION)


def _find_version(run: MlflowRun, name: str) -> str | None:
    """Number of the version as which the run's student is registered already."""
    # Not by name: MLflow's filters have no way to write every name that it accepts.
    versions = run.client.search_model_versions(f"tags.{RUN_TAG} = '{run.run_id}'")
    return next((str(v.version) for v in versions if v.name == name), None)
