"""The run's journal: one JSON line per event, appended by the worker of rank 0.

Training writes here and nowhere else. The driver follows the file, shows it to people and sends it
to MLflow in its own time, so that no tracker can stall a step.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

Kind = Literal["interval", "evaluation", "teacher", "note"]

JOURNAL_NAME = "journal.jsonl"


class Event(NamedTuple):
    """One line. ``step`` counts optimizer steps done; ``epoch`` is from 0; times are Unix ms."""

    kind: Kind
    step: int
    epoch: int
    time_ms: int
    values: dict[str, float]
    eta_s: float | None = None
    text: str = ""


class Journal:
    """Appends events; an event that a run tells again after a restart is written once.

    A resumed run repeats the steps after its last checkpoint and comes to the same values, so what
    the journal already has stays.
    """

    def __init__(self, run_path: Path):
        self._path = run_path / JOURNAL_NAME
        self._last_steps: dict[str, int] = {}
        _remove_torn_line(self._path)
        for event in read_events(self._path)[0]:
            self._last_steps[event.kind] = max(event.step, self._last_steps.get(event.kind, -1))

    def append(
        self,
        kind: Kind,
        step: int,
        epoch: int,
        values: Mapping[str, float],
        eta_s: float | None = None,
    ) -> None:
        """Write an event unless its kind already has one of this step or a later one."""
        if step <= self._last_steps.get(kind, -1):
            return
        self._last_steps[kind] = step
        self._write(Event(kind, step, epoch, int(time.time() * 1000), dict(values), eta_s))

    def note(self, text: str) -> None:
        """Write a line for people, such as the progress of copying a dataset."""
        self._write(Event("note", 0, 0, int(time.time() * 1000), {}, text=text))

    def _write(self, event: Event) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event._asdict()) + "\n")


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Whole lines from byte ``offset`` on, and the offset behind them."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    events = [_parse(line) for line in whole.splitlines()]
    return events, offset + len(whole)


def _parse(line: bytes) -> Event:
    content: dict[str, Any] = json.loads(line)
    return Event(**content)


def _remove_torn_line(path: Path) -> None:
    """Cut off what a killed process left of a line, or the next event would be glued to it."""
    if not path.exists():
        return
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
