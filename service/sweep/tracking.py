"""What MLflow is told of a sweep: a run for each trial, beneath one for the sweep.

A server that is away costs the sweep nothing: what it misses is sent later, by jobs/sync.py.
"""

import json
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from service.cluster.run_folder import TAGS_NAME
from service.files import write_atomically
from service.result import publish, read_result
from service.spec import JobSpec
from service.sweep.records import TrialState
from service.sweep.spec import SweepSpec
from service.tracking.mlflow_run import RUN_ENDS, TRACKING_ERRORS, MlflowRun
from service.tracking.status import State
from service.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

PARENT_TAG = "mlflow.parentRunId"
# Closing one waits for a server that may be slow; the search does not.
NUM_CLOSING = 4
NUM_PUBLISH_TRIES = 3
# A student is exported by torch and logged by MLflow, neither of which does two at a time.
PUBLISHING = threading.Lock()


def identity(sweep: SweepSpec) -> JobSpec:
    """The job spec that stands for the sweep itself: its name and folder, the base's settings."""
    return sweep.base.model_copy(update={"name": sweep.name})


def find_parent(sweep: SweepSpec, uri: str) -> MlflowRun | None:
    """The sweep's own run, if the server is there."""
    try:
        return MlflowRun(identity(sweep), uri)
    except TRACKING_ERRORS as error:
        logger.warning(
            "MLflow at %s does not answer (%s); the sweep goes on, and what it misses is sent when "
            "it is back",
            uri,
            error,
        )
        return None


class RunTrackers:
    """Follows the runs of a sweep that are under way, each for MLflow and for its status file."""

    def __init__(self, uri: str, tags: Mapping[str, str], parent: MlflowRun | None):
        self._uri, self._tags = uri, dict(tags)
        if parent is not None:
            self._tags[PARENT_TAG] = parent.run_id
        self._trackers: dict[Path, Tracker] = {}
        self._pool = ThreadPoolExecutor(NUM_CLOSING, thread_name_prefix="mlflow")
        self._closing: list[Future[None]] = []

    def begin(self, spec: JobSpec, tags: Mapping[str, str]) -> None:
        """Follow a run whose folder is there."""
        all_tags = {**self._tags, "spec_hash": spec.content_hash(), **tags}
        write_atomically(spec.run_path / TAGS_NAME, json.dumps(all_tags, indent=1) + "\n")
        self._trackers[spec.run_path] = Tracker(spec, self._uri, all_tags, show=None)

    def end(self, spec: JobSpec, state: TrialState) -> None:
        """Send the rest of a run that has ended, in its own time."""
        tracker = self._trackers.pop(spec.run_path)
        self._closing.append(self._pool.submit(_close, spec, tracker, state))

    def close(self) -> None:
        """Wait until everything is sent, or cannot be; runs under way have been stopped."""
        for tracker in self._trackers.values():
            self._closing.append(self._pool.submit(_leave, tracker))
        self._trackers.clear()
        self._pool.shutdown(wait=True)
        for future in self._closing:
            future.result()


def _leave(tracker: Tracker) -> None:
    tracker.close("stopped")


def _close(spec: JobSpec, tracker: Tracker, state: State) -> None:
    run = tracker.close(state)
    for _ in range(NUM_PUBLISH_TRIES if run is not None else 0):
        assert run is not None
        try:
            result = read_result(spec.run_path)
            if result is not None and state == "finished":
                with PUBLISHING:
                    publish(result, spec, run)
            else:
                run.end(RUN_ENDS[state])
            break
        except Exception as error:
            # One run that cannot be sent must not end the search; jobs/sync.py sends it later.
            logger.warning("MLflow did not take %s: %s", spec.name, error)
