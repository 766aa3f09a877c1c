"""The runs of a sweep or a comparison in MLflow: children of its own run, tracked where it is."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import mlflow

from data_pipeline.files import write_atomically
from service.publish import read_stored_run, sync_run
from service.run.claim import claim_run_folder
from service.run.folder import (
    SPEC_NAME,
    read_spec,
    read_tags,
    refuse_links,
    write_spec,
    write_tags,
)
from service.spec.job import JobSpec
from service.spec.sections import Tracking
from service.tracking.destination import is_destination, stored_run_id
from service.tracking.mlflow_run import MlflowRun, tracking_uri
from service.tracking.sync_destination import (
    SyncDestination,
    check_artifacts,
    check_run,
    sync_destination,
    tracking_kept,
)
from service.trials.run_trackers import PARENT_TAG, find_parent

logger = logging.getLogger(__name__)

PUBLISHED_NAME = "mlflow_address"


def child_folders(folders: Iterable[Path]) -> Iterator[Path]:
    """The folders of the runs within ``folders``.

    Raises:
        BadInputError: one of them is a link, which may lead to somebody else's run.
    """
    for folder in folders:
        paths = sorted(path.parent for path in folder.glob(f"*/{SPEC_NAME}"))
        refuse_links([folder, *paths])
        yield from paths


def set_parent(run_paths: Iterable[Path], parent: MlflowRun) -> None:
    """Make runs children of ``parent``, including those started without the server."""
    for run_path in run_paths:
        tags = read_tags(run_path)
        if tags.get(PARENT_TAG) == parent.run_id:
            continue
        # At another server or experiment than before, the run is created with its parent.
        is_there = is_destination(read_spec(run_path), parent.uri)
        run_id = stored_run_id(run_path)
        if is_there and run_id is not None:
            parent.client.set_tag(run_id, PARENT_TAG, parent.run_id)
        write_tags(run_path, {**tags, PARENT_TAG: parent.run_id})


def adopt_tracking(run_paths: Iterable[Path], wanted: Tracking) -> None:
    """Track the runs of earlier submissions where those of this one are tracked."""
    for run_path in run_paths:
        spec = read_spec(run_path)
        changes = {"uri": wanted.uri, "experiment": wanted.experiment}
        tracking = spec.tracking.model_copy(update=changes)
        if tracking != spec.tracking:
            write_spec(spec.model_copy(update={"tracking": tracking}))


def move_runs(run_paths: Iterable[Path], uri: str) -> None:
    """Send runs that were tracked elsewhere to the server and experiment of their parent."""
    for run_path in run_paths:
        if not is_destination(read_spec(run_path), uri):
            sync_run(run_path, SyncDestination(uri, None))


@contextlib.contextmanager
def synced(spec: JobSpec, run_paths: Callable[[], Iterable[Path]]) -> Iterator[None]:
    """Send the missing data of runs and hold the folder of ``spec``, which represents them.

    ``run_paths``: finds the runs' folders.

    Raises:
        BadInputError: a running job has claimed the folder, which sends the data itself; or a file
            in the folders is damaged, or of another version of the service.
        RunGoneError: the run of ``spec``, or one of its runs, was deleted in MLflow.
        One of TRACKING_ERRORS: the server fails or does not respond; data that it accepted is not
            sent again.
    """
    destination = sync_destination(spec)
    # What is damaged is found before anything is sent.
    for run_path in (spec.run_path, *run_paths()):
        read_stored_run(run_path)
    with claim_run_folder(spec), tracking_kept():
        mlflow.set_tracking_uri(destination.uri)
        check_run(spec, destination.uri)
        # Before its runs, so that they are created as its children.
        parent = MlflowRun(spec, destination.uri)
        check_artifacts(parent, spec, destination)
        set_parent(run_paths(), parent)
        for run_path in run_paths():
            sync_run(run_path, destination)
        yield


def publish_parent(
    spec: JobSpec, run_paths: Callable[[], Iterable[Path]], send: Callable[[MlflowRun], str]
) -> str | None:
    """Log to the MLflow run of ``spec``, the parent of its runs; its URL, or None if that failed.

    ``run_paths``: finds the runs' folders. ``send``: logs what the parent has, and returns the
    status that it ends with; repeated calls must create no duplicates.
    """
    parent = find_parent(spec, tracking_uri(spec))
    if parent is None:
        return None
    try:
        set_parent(run_paths(), parent)
        move_runs(run_paths(), parent.uri)
        parent.end(send(parent))
    except Exception as error:
        # Any error: all is complete in the folder, and can be sent later.
        logger.warning(
            "MLflow did not accept all of %s (%s); python jobs/sync.py %s sends the rest",
            spec.name,
            error,
            spec.run_path,
        )
        return None
    write_atomically(spec.run_path / PUBLISHED_NAME, parent.address + "\n")
    return parent.address
