"""Sends the events of a run's journal to MLflow: metrics, and the checkpoints that they name."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.files import write_atomically
from data_pipeline.uris import redacted
from service.run.journal import Event
from service.run.state_files import read_text_if_usable
from service.run.tracked_checkpoints import remove_waiting
from service.spec.job import JobSpec
from service.tracking.destination import SENT_NAME
from service.tracking.logged_checkpoints import log_checkpoint
from service.tracking.mlflow_run import TRACKING_ERRORS, MlflowRun
from service.tracking.refusals import is_refusal, reason_of

logger = logging.getLogger(__name__)

MAX_DIGITS = 18


class SentPosition:
    """Number of the last event that MLflow accepted, stored in the run's folder.

    Where it cannot be stored, events are sent twice, which MLflow tolerates.
    """

    def __init__(self, run_path: Path):
        self._path = run_path / SENT_NAME
        self.number = 0
        text = read_text_if_usable(self._path) or ""
        # Of a damaged file, everything is sent again.
        if text.isdecimal() and len(text) < MAX_DIGITS:
            self.number = int(text)

    def save(self, number: int) -> None:
        """Record that MLflow has everything up to this event."""
        self.number = number
        with contextlib.suppress(OSError):
            write_atomically(self._path, f"{number}\n")


class EventSender:
    """Sends events in their order; ``position``: up to where MLflow has them."""

    def __init__(self, run: MlflowRun, spec: JobSpec, position: SentPosition):
        self.run = run
        self._spec, self._position = spec, position
        self._last_logged = position.number
        self.refusal: Exception | None = None
        """Why MLflow refused a checkpoint; from then on only metrics are sent.

        The position stays before it, so that the next job, or jobs/sync.py, tries again.
        """

    def send(self, events: Sequence[Event]) -> int:
        """Send all metrics and at most one checkpoint.

        Returns how many of the events, from the first on, are done: those that are not are passed
        again.

        Raises:
            One of TRACKING_ERRORS: the server fails or does not answer. What it has accepted is
                not sent again.
        """
        new = [event for event in events if event.number > self._last_logged]
        if new:
            # A checkpoint's metrics are points of its evaluation; they are sent with the model.
            self.run.log_events(event for event in new if event.kind != "student")
            self._last_logged = new[-1].number
        indices = [index for index, event in enumerate(events) if event.kind == "student"]
        num_done = indices[0] if indices and self.refusal is None else len(events)
        self._save_position(events[:num_done])
        if num_done == len(events):
            return num_done
        self._send_checkpoint(events[num_done], num_newer=len(indices) - 1)
        self._save_position(events[num_done : num_done + 1])
        return num_done + 1

    def send_all(self, events: Sequence[Event]) -> None:
        """Send everything; see ``send``."""
        while events:
            events = events[self.send(events) :]

    def _save_position(self, done: Sequence[Event]) -> None:
        if done and self.refusal is None:
            self._position.save(done[-1].number)

    def _send_checkpoint(self, event: Event, num_newer: int) -> None:
        """Log a checkpoint, or drop it where enough newer ones wait behind it."""
        spec, tracked = self._spec, self._spec.tracked_checkpoints
        try:
            if tracked is not None and num_newer < tracked.newest:
                log_checkpoint(self.run, spec, event, tracked.newest)
            remove_waiting(spec.run_path, event.step)
        except Exception as error:
            if isinstance(error, TRACKING_ERRORS) and not is_refusal(error):
                raise
            self.refusal = error
            logger.warning(
                "MLflow refuses the checkpoint of step %s of %s (%s); when that is remedied, "
                "python jobs/sync.py %s sends it",
                event.step,
                spec.name,
                redacted(reason_of(error)),
                spec.run_path,
            )
