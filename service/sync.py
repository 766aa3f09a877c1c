"""Sends MLflow what it has not got of runs that have ended, from the files beside them."""

import json
from pathlib import Path

import mlflow

from service.cluster.run_folder import SPEC_NAME, TAGS_NAME, claimed_run_folder
from service.result import publish, read_result
from service.spec import JobSpec
from service.sweep.outcome import write_outcome
from service.sweep.publish import adopt_runs, publish_sweep, sweep_tags
from service.sweep.publish import run_folders as sweep_run_folders
from service.sweep.search import Search
from service.sweep.spec import SWEEP_NAME, SweepSpec
from service.sweep.tracking import identity
from service.tracking.journal import JOURNAL_NAME, JournalReader
from service.tracking.mlflow_run import RUN_ENDS, MlflowRun, tracking_uri
from service.tracking.sent import Sent
from service.tracking.status import STATUS_NAME, Status


def run_folders(path: Path) -> list[Path]:
    """The run or sweep in a folder, or those in a storage path."""
    if (path / SPEC_NAME).is_file():
        return [path]
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if (entry / SPEC_NAME).is_file())


def sync_run(run_path: Path) -> str:
    """Send one run's rest, or a sweep's, and return a line about it.

    Raises:
        BadInputError: a job is at work in the folder, and sends it itself.
        One of TRACKING_ERRORS: the server does not do its part; what it took is remembered.
    """
    spec = JobSpec.model_validate_json((run_path / SPEC_NAME).read_text())
    with claimed_run_folder(spec):
        if (run_path / SWEEP_NAME).exists():
            return _sync_sweep(run_path)
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


def _sync_sweep(sweep_path: Path) -> str:
    """Send the rest of a sweep's runs, and what it came to."""
    sweep = SweepSpec.model_validate_json((sweep_path / SWEEP_NAME).read_text())
    # Before its runs, so that they are made beneath it.
    adopt_runs(sweep, MlflowRun(identity(sweep), tracking_uri(sweep.base)))
    for run_path in sweep_run_folders(sweep):
        sync_run(run_path)
    search = Search(sweep, sweep_path)
    outcome = write_outcome(sweep, search.records())
    address = publish_sweep(sweep, sweep_tags(sweep), outcome, is_stopped=not search.is_over)
    if address is None:
        raise OSError("MLflow did not take all of the sweep")
    return f"{sweep.name}: sent the sweep and its {len(outcome.records)} trials, {address}"


def _status(run_path: Path) -> Status:
    path = run_path / STATUS_NAME
    return Status(**json.loads(path.read_text())) if path.exists() else Status(run_path.name)
