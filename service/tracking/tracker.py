"""Follows a run's journals for their readers, a person and MLflow, each in a thread of its own.

A tracker that is slow or away costs training nothing: the journal keeps what it has not been sent.
"""

import logging
import threading
import time
from collections.abc import Callable

from service.spec import JobSpec
from service.tracking.journal import (
    FAILURES_NAME,
    JOURNAL_NAME,
    Event,
    JournalReader,
    last_number,
    read_events,
)
from service.tracking.mlflow_run import TRACKING_ERRORS, MlflowRun
from service.tracking.sent import Sent
from service.tracking.status import State, Status, StatusFile

logger = logging.getLogger(__name__)

POLL_S = 0.5
MAX_BACKOFF_S = 30.0
FLUSH_LIMIT_S = 120.0
NUM_LAST_TRIES = 3
REFUSED_S = 1.0
TAGS_S = 10.0


class JournalFollower:
    """Hands new events to ``handle`` until closed, then once more what is left.

    ``handle`` says whether it could use them; if not, it is given them again, after a while.
    """

    def __init__(self, reader: JournalReader, handle: Callable[[list[Event]], bool]):
        self._reader, self._handle = reader, handle
        self._pending: list[Event] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="journal", daemon=True)
        self._thread.start()

    def close(self, limit_s: float) -> bool:
        """Deliver the rest, for at most ``limit_s`` seconds; whether all of it was delivered."""
        self._closing.set()
        self._thread.join(limit_s)
        return not self._thread.is_alive() and not self._pending

    def _follow(self) -> None:
        backoff_s = POLL_S
        while not self._closing.is_set():
            backoff_s = POLL_S if self._deliver() else min(2 * backoff_s, MAX_BACKOFF_S)
            self._closing.wait(backoff_s)
        # A server that refuses at once may only have dropped a connection; one that does not answer
        # is not waited for twice.
        for _ in range(NUM_LAST_TRIES):
            start_s = time.monotonic()
            if self._deliver() or time.monotonic() - start_s > REFUSED_S:
                return
            time.sleep(REFUSED_S)

    def _deliver(self) -> bool:
        try:
            self._pending += self._reader.read()
        except OSError as error:
            logger.warning("the journal cannot be read now: %s", error)
            return False
        try:
            is_delivered = self._handle(self._pending)
        except Exception:
            # One thing that cannot be sent must not end the sending for the rest of the run.
            logger.exception("events of the journal cannot be handed on now")
            is_delivered = False
        if not is_delivered:
            return False
        self._pending = []
        return True


class Tracker:
    """Shows a run's progress, if asked to, keeps its status, and sends both to MLflow."""

    def __init__(
        self, spec: JobSpec, uri: str, tags: dict[str, str], show: Callable[[Event], None] | None
    ):
        self._spec, self._uri, self._tags, self._show = spec, uri, tags, show
        self._run: MlflowRun | None = None
        self._warned, self._is_closing = False, False
        self._tags_sent_s = float("-inf")
        journal, failures = spec.run_path / JOURNAL_NAME, spec.run_path / FAILURES_NAME
        self._sent = Sent(spec.run_path)
        self._file = StatusFile(spec.run_path, _status_so_far(spec))
        self._viewers = [
            JournalFollower(JournalReader(path, last_number(path)), handle)
            for path, handle in ((journal, self._show_all), (failures, self._show_failures))
        ]
        self._sender = JournalFollower(JournalReader(journal, self._sent.number), self._send)

    def close(self, state: State) -> MlflowRun | None:
        """End all readers; the run if MLflow has everything, None if it could not be reached."""
        for viewer in self._viewers:
            viewer.close(FLUSH_LIMIT_S)
        self._file.status.state = state
        self._file.close()
        self._is_closing = True
        return self._run if self._sender.close(FLUSH_LIMIT_S) else None

    def _show_all(self, events: list[Event]) -> bool:
        for event in events:
            self._file.status.take(event)
            if self._show is not None:
                self._show(event)
        if events:
            self._file.write()
        return True

    def _show_failures(self, events: list[Event]) -> bool:
        for event in events:
            self._file.status.take_failure(event)
            if self._show is not None:
                self._show(event)
            self._file.write()
        return True

    def _send(self, events: list[Event]) -> bool:
        try:
            if self._run is None:
                run = MlflowRun(self._spec, self._uri)
                run.describe(self._tags)
                self._run = run
                if self._show is not None:
                    print(f"MLflow run: {run.address}", flush=True)
            if events:
                self._run.send(events)
                self._sent.note(events[-1].number)
            if self._is_closing or time.monotonic() - self._tags_sent_s >= TAGS_S:
                self._run.tag(self._file.status.tags())
                self._tags_sent_s = time.monotonic()
        except TRACKING_ERRORS as error:
            self._warn(error)
            return False
        return True

    def _warn(self, error: Exception) -> None:
        if not self._warned and self._show is not None:
            self._warned = True
            logger.warning(
                "MLflow at %s does not answer (%s); training goes on and the journal keeps what it "
                "missed",
                self._uri,
                error,
            )


def _status_so_far(spec: JobSpec) -> Status:
    """What earlier submissions came to."""
    status = Status(spec.name)
    for event in read_events(spec.run_path / FAILURES_NAME):
        status.take_failure(event)
    for event in read_events(spec.run_path / JOURNAL_NAME):
        status.take(event)
    status.state = "waiting"
    return status
