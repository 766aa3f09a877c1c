"""Publishes finished runs in MLflow, and later sends what MLflow missed while it was away."""

import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mlflow
import torch
from torch import nn

from data_pipeline.files import is_regular
from data_pipeline.uris import redacted
from service.distillation.logits import are_valid
from service.models.build import load_network
from service.run.claim import claim_run_folder
from service.run.folder import PAGE_NAME, SPEC_NAME, STUDENT_NAME, read_spec, read_tags
from service.run.journal import JOURNAL_NAME, Event, JournalReader
from service.run.result import RunResult, read_result
from service.run.status import Status, read_status
from service.run.student_card import read_classes
from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.tracking.description import describe_run
from service.tracking.destination import publication_key, set_destination
from service.tracking.event_sender import EventSender, SentPosition
from service.tracking.mlflow_run import RUN_STATUSES, MlflowRun
from service.tracking.registration import RegisteredStudent, register_student
from service.tracking.student_model import log_student
from service.tracking.sync_destination import (
    SyncDestination,
    check_artifacts,
    check_run,
    sync_destination,
    tracking_kept,
)

logger = logging.getLogger(__name__)

NUM_PUBLISH_ATTEMPTS = 3
PICTURE_NAME = "temperatures.png"


def publish(result: RunResult, spec: JobSpec, run: MlflowRun) -> None:
    """Log the final metrics and the student; each is there once, however often this is called.

    A run with held-out images is one of many that choose settings: its student is not logged.

    Raises:
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    run.log_result(result.progress, result.time_ms)
    registered = None
    if spec.dataset.held_out is None:
        registered = log_and_register(run, spec, result)
        result.promotion = registered.promotion if registered is not None else None
    log_description(run, spec, result, registered)
    run.end("FINISHED")
    result.address, result.published_as = run.address, publication_key(spec, run.uri)
    result.write(spec.run_path)


def log_and_register(run: MlflowRun, spec: JobSpec, result: RunResult) -> RegisteredStudent | None:
    """Log the student of a finished run, and register it where the spec says so.

    Raises:
        BadInputError: its logits are not finite.
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    weights_path = spec.run_path / STUDENT_NAME
    logged = log_student(run, spec, load_student(spec, weights_path), weights_path)
    return register_student(run, spec, logged, result)


def log_description(
    run: MlflowRun, spec: JobSpec, result: RunResult, registered: RegisteredStudent | None
) -> None:
    """Log the page that a run's job has written, and the picture of its temperatures; describe it.

    Runs of a sweep or a comparison, of which there are many, have no pages; those with held-out
    images have no pictures either.

    Raises:
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    # Imported late: the libraries of the pictures would delay the first step of each job.
    from service.run_page.facts import run_facts
    from service.run_page.record import read_record

    with tempfile.TemporaryDirectory() as folder:
        if spec.dataset.held_out is None:
            _collect_pages(spec, Path(folder))
        names = sorted(path.name for path in Path(folder).iterdir())
        if names:
            run.client.log_artifacts(run.run_id, folder)
    facts = run_facts(read_record(spec, spec.run_path))
    page, picture = (name if name in names else None for name in (PAGE_NAME, PICTURE_NAME))
    describe_run(run, result, facts, page, picture, registered)


def _collect_pages(spec: JobSpec, folder: Path) -> None:
    """Copy the run's page into a folder, and draw the picture there, as far as there are such."""
    from service.run_page.temperatures import temperatures_png

    try:
        if is_regular(spec.run_path / PAGE_NAME):
            shutil.copyfile(spec.run_path / PAGE_NAME, folder / PAGE_NAME)
        if (picture := temperatures_png(spec, spec.run_path)) is not None:
            (folder / PICTURE_NAME).write_bytes(picture)
    except Exception as error:
        # Of whatever kind: the student counts, and a picture of it must not keep it from MLflow.
        logger.warning("the picture of %s cannot be drawn: %s", spec.name, redacted(str(error)))


def try_to_publish(result: RunResult, spec: JobSpec, run: MlflowRun) -> None:
    """Publish with a few attempts; each continues what the one before had done.

    Where all fail, a warning is logged and ``result`` is not published.
    """
    for _ in range(NUM_PUBLISH_ATTEMPTS):
        try:
            publish(result, spec, run)
            return
        except Exception as error:
            # Of whatever kind: the student is trained, and can be sent later.
            text = redacted(str(error))
            logger.warning("MLflow did not accept the student of %s: %s", spec.name, text)


def load_student(spec: JobSpec, weights_path: Path) -> nn.Module:
    """The trained student with the weights of a run's folder.

    Raises:
        BadInputError: its logits are not finite; it must not be published.
    """
    student = load_network(weights_path, spec.student.model, spec.dataset.num_classes)
    size = spec.evaluation.crop_size
    with torch.inference_mode():
        is_usable = are_valid(student(torch.zeros(1, 3, size, size))).all()
    if not is_usable:
        wrong = "is a student whose logits are not finite"
        remedy = "train another one; this one is not published"
        raise BadInputError(spec.name, [Problem(str(weights_path), wrong, remedy)])
    return student


def run_folders(path: Path) -> list[Path]:
    """The run or sweep in a folder, or those in a storage path."""
    if (path / SPEC_NAME).is_file():
        return [path]
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if (entry / SPEC_NAME).is_file())


def sync_run(run_path: Path, destination: SyncDestination | None = None) -> str:
    """Send MLflow what it misses of a run; returns a line for the log.

    Only the run's own folder is changed, and with SQLite its storage path, which is the folder
    around it. ``destination``: that of the sweep or comparison that the run belongs to, whose
    database is beside the folder of these.

    Raises:
        BadInputError: a job holds the folder, and sends it itself; the spec names a database
            elsewhere; or what the folder has is damaged.
        RunGoneError: the run was deleted in MLflow.
        One of TRACKING_ERRORS: the server fails or does not answer; what it accepted is recorded.
    """
    stored = read_stored_run(run_path)
    spec = stored.spec
    destination = destination or sync_destination(spec)
    with claim_run_folder(spec), tracking_kept():
        mlflow.set_tracking_uri(destination.uri)
        check_run(spec, destination.uri)
        set_destination(spec, destination.uri)
        position = SentPosition(run_path)
        events = JournalReader(run_path / JOURNAL_NAME, position.number).read()
        if _is_complete(stored, destination.uri) and not events:
            return f"{spec.name}: MLflow has everything"
        if stored.result is not None and spec.dataset.held_out is None:
            # Before the run is created: what cannot be published leaves nothing half-written.
            load_student(spec, run_path / STUDENT_NAME)
        run = MlflowRun(spec, destination.uri)
        check_artifacts(run, spec, destination)
        _send_missing(run, stored, events, position)
    return _sync_line(run, stored, events)


class StoredRun(NamedTuple):
    """What a run's folder says of it; ``result``: None while it is not finished."""

    spec: JobSpec
    tags: dict[str, str]
    status: Status
    result: RunResult | None


def read_stored_run(run_path: Path) -> StoredRun:
    """Read what decides what MLflow gets of a run.

    Raises:
        BadInputError: some of it is damaged, or of another version of the service.
        OSError: the storage fails.
    """
    spec, tags = read_spec(run_path), read_tags(run_path)
    read_classes(run_path)
    return StoredRun(spec, tags, read_status(run_path), read_result(run_path))


def _is_complete(stored: StoredRun, uri: str) -> bool:
    """Whether the result, which is sent last, is in MLflow."""
    result = stored.result
    return result is not None and result.published_as == publication_key(stored.spec, uri)


def _send_missing(
    run: MlflowRun, stored: StoredRun, events: Sequence[Event], position: SentPosition
) -> None:
    run.log_spec(stored.tags)
    sender = EventSender(run, stored.spec, position)
    sender.send_all(events)
    run.set_tags(stored.status.tags())
    if stored.result is not None:
        publish(stored.result, stored.spec, run)
    elif stored.status.state in RUN_STATUSES:
        run.end(RUN_STATUSES[stored.status.state])
    if sender.refusal is not None:
        raise sender.refusal


def _sync_line(run: MlflowRun, stored: StoredRun, events: Sequence[Event]) -> str:
    """What was sent, in words."""
    num_points = sum(len(event.values) for event in events if event.kind != "student")
    result, state = stored.result, stored.status.state
    what = "and the student" if result is not None else f"of a run that is {state}"
    line = f"{stored.spec.name}: sent {num_points} points {what}, {run.address}"
    promotion = result.promotion if result is not None else None
    return line if promotion is None else f"{line}; {promotion}"
