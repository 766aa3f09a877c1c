"""Logs an evaluation in MLflow: a run with the figures, the data as its input, and the files.

Where the model is one that MLflow has, the figures are its own too: its page shows them, with the
data that they are of.
"""

import contextlib
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, LoggedModelInput, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException

from data_pipeline.facts import DatasetFacts
from service.evaluate.report import EvaluationReport
from service.evaluate.source import FoundModel
from service.run.state_files import service_version
from service.run.student_card import MODEL_NAME
from service.spec.errors import BadInputError, Problem
from service.spec.paths import sqlite_path
from service.tracking.dataset_inputs import log_dataset
from service.tracking.mlflow_run import (
    TRACKING_ERRORS,
    create_sqlite_file,
    find_experiment,
    run_address,
)
from service.tracking.refusals import is_refusal, reason_of, remedy_of
from service.tracking.server_check import ask, is_new_database
from service.tracking.source_tags import source_tags


def check_destination(uri: str, experiment: str) -> None:
    """Check that MLflow would take the results, before they are computed.

    A server that does not answer is no error: it may answer when they are there.

    Raises:
        BadInputError: it refuses them for good.
    """
    if is_new_database(uri):
        return
    try:
        found = ask(uri, lambda: MlflowClient(uri).get_experiment_by_name(experiment))
    except (TimeoutError, *TRACKING_ERRORS) as error:
        if not is_refusal(error):
            return
        problem = Problem("--mlflow", f"{uri} refuses: {reason_of(error)}", remedy_of(error))
        raise BadInputError("arguments", [problem]) from error
    if found is not None and found.lifecycle_stage == LifecycleStage.DELETED:
        wrong = f"{experiment!r} was deleted in MLflow at {uri}"
        problem = Problem("--experiment", wrong, "use another name, or restore it")
        raise BadInputError("arguments", [problem])


def log_evaluation(
    report: EvaluationReport,
    model: FoundModel,
    facts: DatasetFacts,
    files: Mapping[str, str],
    *,
    name: str,
    uri: str,
    experiment: str,
) -> str:
    """Log a run named ``name``; returns the address of its page. ``files``: texts by file name.

    Raises:
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    create_sqlite_file(uri)
    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri)
    path = sqlite_path(uri)
    location = None if path is None else (path.parent / "mlflow-artifacts").as_uri()
    experiment_id = find_experiment(client, experiment, location)
    run = client.create_run(experiment_id, run_name=name, tags=_tags(report, model))
    run_id = str(run.info.run_id)
    try:
        _fill(client, run_id, report, model, facts, files)
    except Exception:
        # Otherwise the UI shows a run that goes on for ever.
        with contextlib.suppress(*TRACKING_ERRORS):
            client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
    return run_address(uri, experiment_id, run_id)


def _fill(
    client: MlflowClient,
    run_id: str,
    report: EvaluationReport,
    model: FoundModel,
    facts: DatasetFacts,
    files: Mapping[str, str],
) -> None:
    dataset = log_dataset(
        client, run_id, report.data.path, facts, report.data.num_classes, "validation"
    )
    model_id = model.model_id or _student_of_run(client, model.run_id)
    if model_id is not None:
        client.log_inputs(run_id, models=[LoggedModelInput(model_id)])
    time_ms = int(time.time() * 1000)
    metrics = [
        Metric(key, value, time_ms, 0, model_id, dataset.name, dataset.digest, run_id)
        for key, value in metrics_of(report).items()
    ]
    client.log_batch(run_id, metrics=metrics)
    with tempfile.TemporaryDirectory() as folder:
        for file_name, text in files.items():
            (Path(folder) / file_name).write_text(text, encoding="utf-8")
        client.log_artifacts(run_id, folder)


def metrics_of(report: EvaluationReport) -> dict[str, float]:
    """The figures by their names in MLflow; those that are not known are left out."""
    values: dict[str, float | None] = {
        "top1": report.top1.value,
        "top1_low": report.top1.low,
        "top1_high": report.top1.high,
        "top5": report.top5.value,
        "nll": report.nll,
        "ece": report.ece,
        "nonfinite_images": report.num_nonfinite,
        "corrupted_top1": report.mean_corrupted_top1,
    }
    if report.agreement is not None:
        values["agreement"] = report.agreement.share
        values["teacher_top1"] = report.agreement.top1.value
    for each in report.corruptions:
        values[f"top1_{each.kind}_{each.strength}"] = each.top1.value
    for latency in report.latency:
        batch = f"batch{latency.batch_size}"
        values[f"latency_{batch}_s"] = latency.median_s
        values[f"latency_{batch}_p95_s"] = latency.p95_s
        values[f"images_per_s_{batch}"] = latency.images_per_s
        values[f"peak_memory_{batch}_bytes"] = latency.peak_memory_bytes
    return {f"eval/{name}": value for name, value in values.items() if value is not None}


def _tags(report: EvaluationReport, model: FoundModel) -> dict[str, str]:
    run_tag = {} if model.run_id is None else {"evaluated_run": model.run_id}
    return {
        "evaluated_model": model.origin,
        "architecture": model.architecture,
        "weights_sha256": model.weights_sha256,
        "dataset_fingerprint": report.data.fingerprint,
        "preprocessing": report.model.preprocessing_origin,
        "service_version": service_version(),
        **source_tags("jobs/evaluate.py"),
        **run_tag,
    }


def _student_of_run(client: MlflowClient, run_id: str | None) -> str | None:
    """Id of the logged model of a run's final student; None if this server has none."""
    if run_id is None:
        return None
    try:
        experiment_id = client.get_run(run_id).info.experiment_id
    except MlflowException as error:
        # A run's folder may be tracked elsewhere.
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    models = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    ready = (model for model in models if model.status == LoggedModelStatus.READY)
    return next((str(model.model_id) for model in ready if model.name == MODEL_NAME), None)
