"""Follows a run's journals, printing, keeping the status, and sending to MLflow, each on a thread.

A tracking server that is slow or away costs training nothing: the journal keeps what it missed.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping

from data_pipeline.uris import redacted
from service.run.journal import (
    FAILURES_NAME,
    JOURNAL_NAME,
    Event,
    JournalReader,
    last_number,
    read_events,
)
from service.run.status import State, Status, StatusFile
from service.spec.errors import BadInputError
from service.spec.job import JobSpec
from service.tracking.destination import set_destination
from service.tracking.event_sender import EventSender, SentPosition
from service.tracking.mlflow_run import TRACKING_ERRORS, MlflowRun
from service.tracking.refusals import is_refusal, server_error_text
from service.tracking.waiting_viewer import WaitingViewer

logger = logging.getLogger(__name__)

POLL_S = 0.5
MAX_BACKOFF_S = 30.0
FLUSH_TIMEOUT_S = 120.0
NUM_LAST_ATTEMPTS = 3
# A server that fails faster than this may only have dropped a connection.
FAST_FAILURE_S = 1.0
TAGS_INTERVAL_S = 10.0


class JournalForwarder:
    """Passes new events to ``handle`` until closed, then what is left.

    ``handle`` returns how many of them, from the first on, are done, or None where it can accept
    none now. It is called with the others again: at once, or later.
    """

    def __init__(self, reader: JournalReader, handle: Callable[[list[Event]], int | None]):
        self._reader, self._handle = reader, handle
        self._pending: list[Event] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="journal", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Forward the rest, for at most ``timeout_s`` seconds; returns whether all was accepted."""
        self._closing.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and not self._pending

    def _follow(self) -> None:
        backoff_s = POLL_S
        while not self._closing.is_set():
            backoff_s = POLL_S if self._forward() else min(2 * backoff_s, MAX_BACKOFF_S)
            if not (self._pending and backoff_s == POLL_S):
                self._closing.wait(backoff_s)
        # Retried only after fast failures: waiting for a server that does not answer takes long.
        num_attempts = 0
        while num_attempts < NUM_LAST_ATTEMPTS:
            start_s = time.monotonic()
            if self._forward():
                if not self._pending:
                    return
                continue
            if time.monotonic() - start_s > FAST_FAILURE_S:
                return
            num_attempts += 1
            time.sleep(FAST_FAILURE_S)

    def _forward(self) -> bool:
        """Pass on what is pending; returns whether ``handle`` accepted something, if there was."""
        try:
            self._pending += self._reader.read()
        except (OSError, BadInputError) as error:
            logger.warning("the journal cannot be read now: %s", error)
            return False
        try:
            num_done = self._handle(self._pending)
        except Exception:
            # One event that cannot be sent must not end the sending for the rest of the run.
            logger.exception("events of the journal cannot be forwarded now")
            return False
        if num_done is None:
            return False
        self._pending = self._pending[num_done:]
        return True


class Tracker:
    """Prints a run's progress (with ``show``), keeps its status file, and sends both to MLflow."""

    def __init__(
        self,
        spec: JobSpec,
        uri: str,
        tags: Mapping[str, str],
        show: Callable[[Event], None] | None,
    ):
        self._spec, self._uri, self._tags, self._show = spec, uri, dict(tags), show
        self._events: EventSender | None = None
        self._warnings: set[bool] = set()
        self._is_closing = False
        self._tags_sent_s = float("-inf")
        set_destination(spec, uri)
        journal, failures = spec.run_path / JOURNAL_NAME, spec.run_path / FAILURES_NAME
        self._position = SentPosition(spec.run_path)
        self._file = StatusFile(spec.run_path, _earlier_status(spec))
        self._viewers = [
            JournalForwarder(JournalReader(path, last_number(path)), handle)
            for path, handle in ((journal, self._show_all), (failures, self._show_failures))
        ]
        self._waiting = WaitingViewer(spec.run_path, self._show_line, self._update_waiting)
        self._sender = JournalForwarder(JournalReader(journal, self._position.number), self._send)

    def close(self, state: State) -> MlflowRun | None:
        """End all threads; returns the run if MLflow has everything, None if it does not.

        Checkpoints that it refuses do not count: the run's student can be published without them.
        """
        self._waiting.close()
        for viewer in self._viewers:
            viewer.close(FLUSH_TIMEOUT_S)
        self._file.status.state, self._file.status.waiting = state, None
        self._file.close()
        self._is_closing = True
        has_everything = self._sender.close(FLUSH_TIMEOUT_S)
        return self._events.run if has_everything and self._events is not None else None

    def _show_all(self, events: list[Event]) -> int:
        for event in events:
            self._file.status.update(event)
            if self._show is not None:
                self._show(event)
        if events:
            self._file.write()
        return len(events)

    def _show_failures(self, events: list[Event]) -> int:
        for event in events:
            self._file.status.update_failure(event)
            if self._show is not None:
                self._show(event)
            self._file.write()
        return len(events)

    def _show_line(self, line: str) -> None:
        # Only the driver of a sweep follows several runs.
        print(line if self._show is not None else f"{self._spec.name}: {line}", flush=True)

    def _update_waiting(self, text: str | None) -> None:
        if self._file.status.update_waiting(text):
            self._file.write()

    def _send(self, events: list[Event]) -> int | None:
        try:
            if self._events is None:
                self._events = self._open_run()
            num_done = self._events.send(events)
            if self._is_closing or time.monotonic() - self._tags_sent_s >= TAGS_INTERVAL_S:
                self._events.run.set_tags(self._file.status.tags())
                self._tags_sent_s = time.monotonic()
        except TRACKING_ERRORS as error:
            self._warn(error)
            return None
        return num_done

    def _open_run(self) -> EventSender:
        run = MlflowRun(self._spec, self._uri)
        run.log_spec(self._tags)
        if self._show is not None:
            print(f"MLflow run: {run.address}", flush=True)
        return EventSender(run, self._spec, self._position)

    def _warn(self, error: Exception) -> None:
        """Once for a server that is away, and once for one that refuses."""
        if is_refusal(error) not in self._warnings and self._show is not None:
            self._warnings.add(is_refusal(error))
            logger.warning(
                "MLflow at %s %s; training continues, and the journal keeps what it missed",
                redacted(self._uri),
                redacted(server_error_text(error)),
            )


def _earlier_status(spec: JobSpec) -> Status:
    """The status after earlier submissions."""
    status = Status(spec.name)
    for event in read_events(spec.run_path / FAILURES_NAME):
        status.update_failure(event)
    for event in read_events(spec.run_path / JOURNAL_NAME):
        status.update(event)
    status.state = "waiting"
    return status
