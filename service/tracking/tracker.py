"""Follows a run's journal for its readers, a person and MLflow, each in a thread of its own.

A tracker that is slow or away costs training nothing: the journal keeps what it has not been sent.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from service.spec import JobSpec
from service.tracking.journal import JOURNAL_NAME, Event, read_events
from service.tracking.mlflow_run import TRACKING_ERRORS, MlflowRun

logger = logging.getLogger(__name__)

POLL_S = 0.5
MAX_BACKOFF_S = 30.0
FLUSH_LIMIT_S = 120.0
OFFSET_NAME = "journal.sent"


class JournalFollower:
    """Hands new events to ``handle`` until closed, then once more what is left."""

    def __init__(self, journal: Path, offset: int, handle: Callable[[list[Event], int], bool]):
        self._journal = journal
        self._offset = offset
        self._handle = handle
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="journal", daemon=True)
        self._thread.start()

    def close(self, limit_s: float) -> bool:
        """Deliver the rest, for at most ``limit_s`` seconds; whether all of it was delivered."""
        self._closing.set()
        self._thread.join(limit_s)
        return not self._thread.is_alive()

    def _follow(self) -> None:
        backoff_s = POLL_S
        while True:
            is_last = self._closing.is_set()
            events, offset = read_events(self._journal, self._offset)
            if self._handle(events, offset):
                self._offset, backoff_s = offset, POLL_S
                if is_last:
                    return
            else:
                backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
                if is_last:
                    time.sleep(backoff_s)
            self._closing.wait(backoff_s)


class Tracker:
    """Shows a run's progress and sends it to MLflow; ``run`` is None until the server answered."""

    def __init__(
        self, spec: JobSpec, uri: str, tags: dict[str, str], show: Callable[[Event], None]
    ):
        self._spec, self._uri, self._tags, self._show = spec, uri, tags, show
        self.run: MlflowRun | None = None
        self._warned = False
        journal = spec.run_path / JOURNAL_NAME
        self._offset_path = spec.run_path / OFFSET_NAME
        already_shown = journal.stat().st_size if journal.exists() else 0
        already_sent = int(self._offset_path.read_text()) if self._offset_path.exists() else 0
        self._viewer = JournalFollower(journal, already_shown, self._show_all)
        self._sender = JournalFollower(journal, already_sent, self._send)

    def close(self) -> MlflowRun | None:
        """End both readers; the run if MLflow has everything, None if it could not be reached."""
        self._viewer.close(FLUSH_LIMIT_S)
        return self.run if self._sender.close(FLUSH_LIMIT_S) else None

    def _show_all(self, events: list[Event], offset: int) -> bool:  # noqa: ARG002 - a handler
        for event in events:
            self._show(event)
        return True

    def _send(self, events: list[Event], offset: int) -> bool:
        try:
            if self.run is None:
                run = MlflowRun(self._spec, self._uri)
                run.describe(self._tags)
                self.run = run
                print(f"MLflow run: {run.address}", flush=True)
            if events:
                self.run.send(events)
                self._offset_path.write_text(str(offset))
        except TRACKING_ERRORS as error:
            if not self._warned:
                self._warned = True
                logger.warning(
                    "MLflow at %s does not answer (%s); training goes on and the journal "
                    "keeps what it missed",
                    self._uri,
                    error,
                )
            return False
        return True
