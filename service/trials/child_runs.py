"""The runs of a sweep or a comparison in MLflow: children of its own run, tracked where it is."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from service.publish import sync_run
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
from service.tracking.mlflow_run import MlflowRun
from service.tracking.sync_destination import (
    SyncDestination,
    check_artifacts,
    sync_destination,
    tracking_kept,
)
from service.trials.run_trackers import PARENT_TAG


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
            in the folder is damaged, or of another version of the service.
        One of TRACKING_ERRORS: the server fails or does not respond; data that it accepted is not
            sent again.
    """
    destination = sync_destination(spec)
    with claim_run_folder(spec), tracking_kept():
        # Before its runs, so that they are created as its children.
        parent = MlflowRun(spec, destination.uri)
        check_artifacts(parent, spec, destination)
        set_parent(run_paths(), parent)
        for run_path in run_paths():
            sync_run(run_path, destination)
        yield
