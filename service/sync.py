"""Sends MLflow what it has not got of runs that have ended, from the files beside them."""

import json
from pathlib import Path

import mlflow

from service.cluster.run_folder import SPEC_NAME, TAGS_NAME, claimed_run_folder
from service.result import publish, read_result
from service.spec import JobSpec
from service.tracking.journal import JOURNAL_NAME, JournalReader
from service.tracking.mlflow_run import RUN_ENDS, MlflowRun, tracking_uri
from service.tracking.sent import Sent
from service.tracking.status import STATUS_NAME, Status


def run_folders(path: Path) -> list[Path]:
    """The run in a folder, or the runs in a storage path."""
    if (path / SPEC_NAME).is_file():
        return [path]
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if (entry / SPEC_NAME).is_file())


def sync_run(run_path: Path) -> str:
    """Send one run's rest and return a line about it.

    Raises:
        BadInputError: a job is at work in the folder, and sends it itself.
        One of TRACKING_ERRORS: the server does not do its part; what it took is remembered.
    """
    spec = JobSpec.model_validate_json((run_path / SPEC_NAME).read_text())
    with claimed_run_folder(spec):
        sent, result = Sent(run_path), read_result(run_path)
        events = JournalReader(run_path / JOURNAL_NAME, sent.number).read()
        if result is not None and result.is_published and not events:
            return f"{spec.name}: MLflow has everything"
        uri = tracking_uri(spec)
        mlflow.set_tracking_uri(uri)
        run = MlflowRun(spec, uri)
        run.describe(json.loads((run_path / TAGS_NAME).read_text()))
        if events:
            run.send(events)
            sent.note(events[-1].number)
        status = _status(run_path)
        run.tag(status.tags())
        if result is not None:
            publish(result, spec, run)
        elif status.state in RUN_ENDS:
            run.end(RUN_ENDS[status.state])
        num_points = sum(len(event.values) for event in events)
        what = "and the student" if result is not None else f"of a run that is {status.state}"
        return f"{spec.name}: sent {num_points} points {what}, {run.address}"


def _status(run_path: Path) -> Status:
    path = run_path / STATUS_NAME
    return Status(**json.loads(path.read_text())) if path.exists() else Status(run_path.name)
