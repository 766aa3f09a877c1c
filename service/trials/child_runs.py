"""The runs of a sweep or a comparison in MLflow: children of its own run, tracked where it is."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from service.publish import sync_run
from service.run.folder import (
    SPEC_NAME,
    read_spec,
    read_tags,
    refuse_links,
    write_spec,
    write_tags,
)
from service.spec.sections import Tracking
from service.tracking.destination import is_destination, stored_run_id
from service.tracking.mlflow_run import MlflowRun
from service.tracking.sync_destination import SyncDestination
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
            sync_run(run_path, SyncDestination(uri, is_named=True))
