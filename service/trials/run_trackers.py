"""Tracks several runs at the same time in MLflow, as children of one parent run.

Trials continue while the server is unavailable; jobs/sync.py sends the missing data later.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from service.publish import try_to_publish
from service.run.folder import write_tags
from service.run.result import read_result
from service.run.status import State
from service.run.student_card import write_classes
from service.spec.job import JobSpec
from service.tracking.mlflow_run import RUN_STATUSES, TRACKING_ERRORS, MlflowRun
from service.tracking.refusals import server_error_text
from service.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

PARENT_TAG = "mlflow.parentRunId"
# Closing a tracker waits for the server, so it runs on these threads and not in the trials' loop.
_CLOSING = ThreadPoolExecutor(4, thread_name_prefix="mlflow")


def find_parent(spec: JobSpec, uri: str) -> MlflowRun | None:
    """The MLflow run of ``spec``, the parent of the others; None if the server does not respond."""
    try:
        return MlflowRun(spec, uri)
    except TRACKING_ERRORS as error:
        logger.warning(
            "MLflow at %s %s; %s continues, and python jobs/sync.py sends its data later",
            uri,
            server_error_text(error),
            spec.name,
        )
        return None


class RunTrackers:
    """A tracker for each running trial; with a ``parent``, their MLflow runs are its children.

    ``classes``: names of the dataset's classes, which are stored with each trial.
    """

    def __init__(
        self,
        uri: str,
        tags: Mapping[str, str],
        parent: MlflowRun | None,
        classes: tuple[str, ...] | None = None,
    ):
        self._uri, self._tags, self._classes = uri, dict(tags), classes
        if parent is not None:
            self._tags[PARENT_TAG] = parent.run_id
        self._trackers: dict[Path, tuple[JobSpec, Tracker]] = {}
        self._closing: list[Future[None]] = []

    def start(self, spec: JobSpec, tags: Mapping[str, str]) -> None:
        """Track a run whose folder exists."""
        all_tags = {**self._tags, "spec_hash": spec.content_hash(), **tags}
        write_tags(spec.run_path, all_tags)
        write_classes(spec.run_path, self._classes)
        self._trackers[spec.run_path] = spec, Tracker(spec, self._uri, all_tags, show=None)

    def end(self, spec: JobSpec, state: State) -> None:
        """Send the remaining data of a run that has ended, in the background."""
        _, tracker = self._trackers.pop(spec.run_path)
        self._closing.append(_CLOSING.submit(_close, spec, tracker, state))

    def close(self) -> None:
        """Close all trackers and wait for them; trials that have not ended count as stopped."""
        for spec, tracker in self._trackers.values():
            self._closing.append(_CLOSING.submit(_close, spec, tracker, "stopped"))
        self._trackers.clear()
        for future in self._closing:
            future.result()


def _close(spec: JobSpec, tracker: Tracker, state: State) -> None:
    run = tracker.close(state)
    if run is None:
        return
    result = read_result(spec.run_path)
    if result is not None and state == "finished":
        try_to_publish(result, spec, run)
        return
    try:
        run.end(RUN_STATUSES[state])
    except Exception as error:
        # Any error: one run that cannot be sent must not stop the others.
        logger.warning("MLflow did not accept the end of %s: %s", spec.name, error)
