"""Registers a run's student as a version of a model, once, and promotes it if it passes the bar."""

from typing import NamedTuple

import mlflow

from service.run.folder import read_tags
from service.spec.job import JobSpec
from service.tracking.mlflow_run import MlflowRun
from service.tracking.promotion import PROMOTION_TAG, figures_tags, promote

# Tag of a registered version: the run that it came from.
RUN_TAG = "trained_by_run"


class RegisteredStudent(NamedTuple):
    """A version of a registered model; ``promotion``: what was decided, None without a bar."""

    name: str
    version: str
    promotion: str | None


def register_student(
    run: MlflowRun, spec: JobSpec, model_uri: str, top1: float | None
) -> RegisteredStudent | None:
    """Register the student that was logged as ``model_uri``; None where the spec does not say so.

    ``top1``: its accuracy on val, None if it was evaluated on other images. Repeated calls find the
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
        tags = {RUN_TAG: run.run_id, **figures_tags(top1, fingerprint)}
        version = str(mlflow.register_model(model_uri, name, tags=tags).version)
    if promotion is None:
        return RegisteredStudent(name, version, None)
    decision = promote(run.client, name, version, promotion)
    run.set_tags({PROMOTION_TAG: decision})
    return RegisteredStudent(name, version, decision)


def _find_version(run: MlflowRun, name: str) -> str | None:
    """Number of the version as which the run's student is registered already."""
    # Not by name: MLflow's filters have no way to write every name that it accepts.
    versions = run.client.search_model_versions(f"tags.{RUN_TAG} = '{run.run_id}'")
    return next((str(v.version) for v in versions if v.name == name), None)
