"""status.json in the run's folder: the state of a run for people, scripts and dashboards.

The driver writes it, from the journal and from its own state. A run whose status is running and
was not updated for minutes has lost its driver; submit its spec again.
"""

import contextlib
import json
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import with_config

from data_pipeline.files import write_atomically
from service.run.journal import Event
from service.run.polling import PollingThread
from service.run.state_files import WITHOUT_OTHER_FIELDS, read_if_usable

STATUS_NAME = "status.json"
REFRESH_S = 15.0

State = Literal["waiting", "running", "restarting", "stopped", "failed", "finished"]


@with_config(WITHOUT_OTHER_FIELDS)
@dataclass
class Status:
    """State of a run.

    ``state`` is waiting until workers start, and while they wait for resources of the cluster;
    ``waiting`` then says for which, and since when. ``restarts`` counts restarts of the training;
    ``step`` and ``last_checkpoint_step`` count optimizer steps done; times are Unix seconds.
    ``last_failure`` stays when the run has resumed and when it has finished.
    """

    name: str
    state: State = "waiting"
    waiting: str | None = None
    step: int = 0
    epoch: int = 0
    eta_s: float | None = None
    last_checkpoint_step: int | None = None
    last_checkpoint_time: float | None = None
    restarts: int = 0
    last_failure: str | None = None
    last_failure_time: float | None = None
    updated_time: float = 0.0

    def __post_init__(self) -> None:
        self._has_started = False
        self._state_before: State = "waiting"

    def update(self, event: Event) -> None:
        """Apply an event of the journal."""
        if event.kind == "start":
            self.restarts += self._has_started
            self._has_started = True
            self.state, self.waiting = "running", None
        if event.kind == "checkpoint":
            self.last_checkpoint_step = event.step
            self.last_checkpoint_time = event.time_ms / 1000
            # Logged when it has been written, which may be some steps later.
            if event.step > self.step:
                self.step, self.epoch = event.step, event.epoch
        if event.kind in ("start", "interval", "evaluation"):
            self.step, self.epoch = event.step, event.epoch
            self.eta_s = event.eta_s

    def update_failure(self, event: Event) -> None:
        """Apply an event of the journal of failures."""
        self.state = "restarting"
        self.last_failure, self.last_failure_time = event.text, event.time_ms / 1000

    def update_waiting(self, text: str | None) -> bool:
        """Apply what the run waits for, None for nothing; returns whether that began or ended."""
        has_changed = (text is None) != (self.waiting is None)
        if text is not None and self.state != "waiting":
            self._state_before, self.state = self.state, "waiting"
        elif text is None and has_changed and self.state == "waiting":
            self.state = self._state_before
        self.waiting = text
        return has_changed

    def tags(self) -> dict[str, str]:
        """The same as MLflow tags."""
        return {
            f"status.{key}": "" if value is None else str(value)
            for key, value in asdict(self).items()
            if key != "name"
        }


class Stamped(Protocol):
    """A dataclass with the time when it was last written."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    updated_time: float


S = TypeVar("S", bound=Stamped)


class StatusFile(Generic[S]):
    """Keeps status.json current, on a thread, which also shows that the driver is alive."""

    def __init__(self, run_path: Path, status: S):
        self._path, self._lock = run_path / STATUS_NAME, threading.Lock()
        self.status = status
        self._thread = PollingThread("status", REFRESH_S, self.write)

    def write(self) -> None:
        """Write the current status; where the disk fails, it is skipped."""
        with self._lock, contextlib.suppress(OSError):
            self.status.updated_time = time.time()
            write_atomically(self._path, json.dumps(asdict(self.status), indent=1) + "\n")

    def close(self) -> None:
        """End the thread and write the final status."""
        self._thread.close()
        self.write()


def write_stopped(run_path: Path) -> None:
    """Set the state that an earlier submission left, if any, to stopped."""
    path = run_path / STATUS_NAME
    content = read_if_usable(path, dict[str, Any])
    if content is not None:
        content |= {"state": "stopped", "eta_s": None, "updated_time": time.time()}
        with contextlib.suppress(OSError):
            write_atomically(path, json.dumps(content, indent=1) + "\n")


def read_status(run_path: Path) -> Status:
    """The status that a run's driver wrote last; that of a new run if there is none to use."""
    return read_if_usable(run_path / STATUS_NAME, Status) or Status(run_path.name)
