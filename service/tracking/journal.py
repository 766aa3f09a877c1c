"""The run's journal: one JSON line per event, appended by the worker of rank 0.

Training writes here and nowhere else. The driver follows the file, shows it to people and sends it
to MLflow in its own time, so that no tracker can stall a step. Nor can the journal's own disk:
where there is no room, lines are given up.
"""

import contextlib
import errno
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from service.files import WriterToken

Kind = Literal["start", "interval", "evaluation", "teacher", "checkpoint", "note"]
# Of these, a run that was resumed tells some again.
SERIES = ("interval", "evaluation", "teacher", "checkpoint")

JOURNAL_NAME = "journal.jsonl"
FAILURES_NAME = "failures.jsonl"
MAX_UNWRITTEN = 1000
# Below this, progress lines are too few for giving up half of them to make room.
MIN_THINNED = 16
# What a journal that went over its limit is brought down to.
ROOM_SHARE = 0.75


class Event(NamedTuple):
    """One line. ``step`` counts optimizer steps done; ``epoch`` is from 0; times are Unix ms.

    ``number`` counts the events of a run from 1; a journal that was thinned has gaps in it.
    """

    kind: Kind
    step: int
    epoch: int
    time_ms: int
    values: dict[str, float]
    eta_s: float | None = None
    text: str = ""
    number: int = 0


class Journal:
    """Appends events; an event that a run tells again after a restart is written once.

    A resumed run repeats the steps after its last checkpoint and comes to the same values, so what
    the journal already has stays. ``limit_bytes`` is what it may take on the disk.
    """

    def __init__(
        self,
        path: Path,
        limit_bytes: int,
        token: WriterToken | None = None,
    ):
        self._path = path
        self._limit_bytes, self._token = limit_bytes, token
        self._lock = threading.Lock()
        self._last_steps: dict[str, int] = {}
        self._unwritten: list[Event] = []
        self._stride, self._num_intervals = 1, 0
        _remove_torn_line(self._path)
        events = read_events(self._path)
        self._number = max((event.number for event in events), default=0)
        for event in events:
            self._last_steps[event.kind] = max(event.step, self._last_steps.get(event.kind, -1))

    def append(
        self,
        kind: Kind,
        step: int,
        epoch: int,
        values: Mapping[str, float],
        eta_s: float | None = None,
        text: str = "",
    ) -> None:
        """Write an event unless its series already has one of this step or a later one.

        Raises:
            SupersededError: another worker writes this journal now.
        """
        with self._lock:
            if kind in SERIES:
                if step <= self._last_steps.get(kind, -1):
                    return
                self._last_steps[kind] = step
            if kind == "interval":
                self._num_intervals += 1
                if self._num_intervals % self._stride:
                    return
            self._number += 1
            now_ms = int(time.time() * 1000)
            event = Event(kind, step, epoch, now_ms, dict(values), eta_s, text, self._number)
            self._write(event)

    def note(self, text: str) -> None:
        """Write a line for people, such as the progress of copying a dataset."""
        self.append("note", 0, 0, {}, text=text)

    def sync(self) -> None:
        """Bring what was written to the disk, so that it outlives the machine.

        Raises:
            OSError: the disk does not do it.
        """
        with self._lock:
            if self._unwritten:
                _append_whole(self._path, _lines(self._unwritten))
                self._unwritten.clear()
            if self._path.exists():
                with self._path.open("rb") as file:
                    os.fsync(file.fileno())

    def _write(self, event: Event) -> None:
        self._unwritten.append(event)
        try:
            if self._token is not None:
                self._token.check()
            _append_whole(self._path, _lines(self._unwritten))
            self._unwritten.clear()
            if self._path.stat().st_size > self._limit_bytes:
                self._thin()
        except OSError:
            # The next event tries again; until then, memory is limited too.
            if len(self._unwritten) > MAX_UNWRITTEN:
                self._unwritten = _thinned(self._unwritten)

    def _thin(self) -> None:
        """Halve the resolution of what is written, and of what is to come, until there is room."""
        partial_path = self._path.with_name(self._path.name + ".partial")
        events = read_events(self._path)
        while len(events) > 1 and len(_lines(events)) > ROOM_SHARE * self._limit_bytes:
            if _num_intervals(events) >= MIN_THINNED:
                self._stride *= 2
            events = _thinned(events)
        try:
            partial_path.write_bytes(_lines(events))
            partial_path.replace(self._path)
        finally:
            partial_path.unlink(missing_ok=True)


class JournalReader:
    """Reads events as they come, those after a number; copes with a journal that is thinned."""

    def __init__(self, path: Path, after: int):
        self._path, self._after = path, after
        self._inode, self._offset = -1, 0

    def read(self) -> list[Event]:
        """Events that are whole and were not read before.

        Raises:
            OSError: the journal is there and cannot be read.
        """
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._offset:
                self._inode, self._offset = status.st_ino, 0
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        events = [event for event in _parse(whole) if event.number > self._after]
        self._after = max([self._after, *(event.number for event in events)])
        return events


def last_number(path: Path) -> int:
    """Number of the newest event in a journal; 0 without one."""
    return max((event.number for event in read_events(path)), default=0)


def read_events(path: Path) -> list[Event]:
    """All events that are whole; none where there is no journal."""
    return JournalReader(path, -1).read()


def _parse(lines: bytes) -> list[Event]:
    """The events of whole lines; what a loss of power left of others is passed over."""
    events = []
    for line in lines.splitlines():
        with contextlib.suppress(ValueError, TypeError):
            content: dict[str, Any] = json.loads(line)
            events.append(Event(**content))
    return events


def _lines(events: Sequence[Event]) -> bytes:
    return "".join(json.dumps(event._asdict()) + "\n" for event in events).encode()


def _num_intervals(events: Sequence[Event]) -> int:
    return sum(event.kind == "interval" for event in events)


def _thinned(events: list[Event]) -> list[Event]:
    """Every other progress line left out, and the newest kept; if they are few, other events."""
    lines = [event.number for event in events if event.kind == "interval"]
    if len(lines) < MIN_THINNED:
        lines = [event.number for event in events if event.kind not in ("teacher", "start")]
    if len(lines) < 2:
        lines = [event.number for event in events]
    given_up = set(lines[-2::-2])
    return [event for event in events if event.number not in given_up]


def _append_whole(path: Path, data: bytes) -> None:
    """Append all of ``data`` or none of it.

    Raises:
        OSError: the disk has no room for it.
    """
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) != len(data):
                # What the next write would be told.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(size)
            raise


def _remove_torn_line(path: Path) -> None:
    """Cut off what a killed process left of a line, or the next event would be glued to it."""
    if not path.exists():
        return
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
