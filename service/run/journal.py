"""The run's journal: one JSON line per event, appended by the worker of rank 0.

Training writes here and nowhere else. The driver reads the file, prints it and sends it to MLflow
asynchronously, so that no tracking server can stall a step. Nor can the journal's own disk: where
it is full, progress lines are dropped.
"""

import contextlib
import errno
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Annotated, Literal, NamedTuple

from pydantic import Field, TypeAdapter

from data_pipeline.files import NotRegularError, open_regular, write_atomically
from service.run.folder import FencingToken
from service.run.state_files import damaged

Kind = Literal["start", "interval", "evaluation", "student", "teacher", "checkpoint", "note"]
# A resumed run repeats some events of these kinds.
SERIES = ("interval", "evaluation", "student", "teacher", "checkpoint")
# What is dropped last: a file waits for each "student", until MLflow has it.
KEPT = ("teacher", "start", "student")

JOURNAL_NAME = "journal.jsonl"
FAILURES_NAME = "failures.jsonl"
# The largest tracking.journal_limit_bytes; what a reader has in memory is some times as large.
MAX_JOURNAL_BYTES = 128_000_000
REMEDY = "move it away, or use another name"
MAX_UNWRITTEN = 1000
# With fewer progress lines than this, dropping half of them does not free enough space.
MIN_THINNED = 16
# Share of the limit that a journal over its limit is thinned to.
THINNED_SHARE = 0.75


# A damaged number leaves room for those of the events that follow.
Count = Annotated[int, Field(ge=0, lt=2**53)]


class Event(NamedTuple):
    """One line. ``step`` counts optimizer steps done; ``epoch`` is from 0; times are Unix ms.

    ``number`` counts the events of a run from 1; a journal that was thinned has gaps in it. A
    "student" is one whose weights wait in the folder (see ``tracked_checkpoint_path``) for MLflow.
    """

    kind: Kind
    step: Count
    epoch: Count
    time_ms: Count
    values: dict[str, float]
    eta_s: Annotated[float, Field(allow_inf_nan=False)] | None = None
    text: str = ""
    number: Count = 0


_EVENT = TypeAdapter(Event)


class Journal:
    """Appends events; an event that is repeated after a restart is written once.

    A resumed run repeats the steps after its last checkpoint with the same values, so what the
    journal already has is kept. ``limit_bytes``: largest size of the file. With a ``token``, only
    the newest writer of the run's folder appends.
    """

    def __init__(
        self,
        path: Path,
        limit_bytes: int,
        token: FencingToken | None = None,
    ):
        self._path = path
        self._limit_bytes, self._token = limit_bytes, token
        self._lock = threading.Lock()
        self._last_steps: dict[str, int] = {}
        self._evaluated_ms: dict[int, int] = {}
        self._unwritten: list[Event] = []
        self._stride, self._num_intervals = 1, 0
        remove_torn_line(self._path)
        events = read_events(self._path)
        self._number = max((event.number for event in events), default=0)
        for event in events:
            self._last_steps[event.kind] = max(event.step, self._last_steps.get(event.kind, -1))
            if event.kind == "evaluation":
                self._evaluated_ms[event.step] = event.time_ms

    def has(self, kind: Kind, step: int) -> bool:
        """Whether there is an event of a kind at this step or a later one."""
        with self._lock:
            return step <= self._last_steps.get(kind, -1)

    def append(
        self,
        kind: Kind,
        step: int,
        epoch: int,
        values: Mapping[str, float],
        eta_s: float | None = None,
        text: str = "",
    ) -> None:
        """Append an event, unless there is one of its kind at this step or a later one.

        Events of the kinds "start" and "note" are always appended. A "student" has the time of its
        evaluation: MLflow then takes its metrics for the same points. ``eta_s``: seconds left.

        Raises:
            FencedError: another worker writes this journal now.
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
            time_ms = int(time.time() * 1000)
            if kind == "evaluation":
                self._evaluated_ms[step] = time_ms
            elif kind == "student":
                time_ms = self._evaluated_ms.get(step, time_ms)
            event = Event(kind, step, epoch, time_ms, dict(values), eta_s, text, self._number)
            self._write(event)

    def note(self, text: str) -> None:
        """Append a message for the log, such as the progress of copying a dataset."""
        self.append("note", 0, 0, {}, text=text)

    def sync(self) -> None:
        """Flush what was written to the disk, so that it survives a loss of power.

        Raises:
            OSError: the disk fails.
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
            # The next event retries; until then, memory is limited too.
            if len(self._unwritten) > MAX_UNWRITTEN:
                self._unwritten = _thinned(self._unwritten)

    def _thin(self) -> None:
        """Drop every other progress line, now and from now on, until the file is small enough."""
        events = read_events(self._path)
        while len(events) > 1 and len(_lines(events)) > THINNED_SHARE * self._limit_bytes:
            if _num_intervals(events) >= MIN_THINNED:
                self._stride *= 2
            events = _thinned(events)
        write_atomically(self._path, _lines(events))


class JournalReader:
    """Reads new events, those after a number; works while the journal is being thinned."""

    def __init__(self, path: Path, after: int):
        self._path, self._after = path, after
        self._inode, self._offset = -1, 0

    def read(self) -> list[Event]:
        """Complete events that were not returned before; none while there is no journal.

        Raises:
            BadInputError: it is no regular file, or larger than any journal.
            OSError: the journal exists and cannot be read.
        """
        file = _open_journal(self._path, "rb")
        if file is None:
            return []
        with file:
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
    """Number of the newest event of a journal; 0 where there is none."""
    return max((event.number for event in read_events(path)), default=0)


def read_events(path: Path) -> list[Event]:
    """All complete events; none where there is no journal."""
    return JournalReader(path, -1).read()


def _parse(lines: bytes) -> list[Event]:
    """The events of complete lines; lines that a loss of power damaged are skipped."""
    events = []
    for line in lines.splitlines():
        with contextlib.suppress(ValueError):
            events.append(_EVENT.validate_json(line, strict=True))
    return events


def _lines(events: Sequence[Event]) -> bytes:
    return "".join(json.dumps(event._asdict()) + "\n" for event in events).encode()


def _num_intervals(events: Sequence[Event]) -> int:
    return sum(event.kind == "interval" for event in events)


def _thinned(events: list[Event]) -> list[Event]:
    """Drop every other progress line, keeping the newest; where few are left, other events."""
    lines = [event.number for event in events if event.kind == "interval"]
    if len(lines) < MIN_THINNED:
        lines = [event.number for event in events if event.kind not in KEPT]
    if len(lines) < 2:
        lines = [event.number for event in events]
    dropped = set(lines[-2::-2])
    return [event for event in events if event.number not in dropped]


def _append_whole(path: Path, data: bytes) -> None:
    """Append all of ``data`` or none of it.

    Raises:
        OSError: the disk is full or fails.
    """
    with open_regular(path, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) != len(data):
                # A short write; the next one would raise this.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(size)
            raise


def remove_torn_line(path: Path) -> None:
    """Remove the incomplete last line that a killed process left.

    Raises:
        BadInputError: it is no regular file, or larger than any journal.
        OSError: the storage fails.
    """
    file = _open_journal(path, "r+b")
    if file is None:
        return
    with file:
        data = file.read()
        if not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)


def _open_journal(path: Path, mode: Literal["rb", "r+b"]) -> IO[bytes] | None:
    """An open journal; None if there is none."""
    try:
        file = open_regular(path, mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except NotRegularError as error:
        raise damaged(path, f"is {error.kind}", REMEDY) from error
    if os.fstat(file.fileno()).st_size > 2 * MAX_JOURNAL_BYTES:
        file.close()
        raise damaged(path, f"has more than {2 * MAX_JOURNAL_BYTES:,} bytes", REMEDY)
    return file
