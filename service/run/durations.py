"""How long a run has trained and waited, over all its submissions."""

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import TypeAdapter

from data_pipeline.files import open_regular
from data_pipeline.json_files import UnusableFileError, read_bounded
from service.run.journal import JOURNAL_NAME, Count, Event, read_events
from service.run.state_files import LIMIT_BYTES

logger = logging.getLogger(__name__)

SUBMISSIONS_NAME = "submissions.jsonl"


class _Mark(NamedTuple):
    """One line of the file of submissions; ``time_ms``: Unix time."""

    kind: Literal["begin", "end"]
    time_ms: Count


_MARK = TypeAdapter(_Mark)


class Durations(NamedTuple):
    """Seconds of training and evaluation; and of all else: start-up, waiting for resources."""

    training_s: float
    waiting_s: float


@contextlib.contextmanager
def recorded_submission(run_path: Path) -> Iterator[None]:
    """Record in the run's folder, which must exist, when a submission begins and ends."""
    _record(run_path, "begin")
    try:
        yield
    finally:
        _record(run_path, "end")


def _record(run_path: Path, kind: Literal["begin", "end"]) -> None:
    mark = _Mark(kind, int(time.time() * 1000))
    # Where the disk fails, the time of this submission is not counted as waiting.
    with contextlib.suppress(OSError), open_regular(run_path / SUBMISSIONS_NAME, "a") as file:
        file.write(json.dumps(mark._asdict()) + "\n")


def durations(run_path: Path) -> Durations:
    """Time of a run up to now; of a submission whose driver was killed, up to its last event.

    A run without recorded submissions, such as a trial of a sweep, has not waited.
    """
    events = read_events(run_path / JOURNAL_NAME)
    training_ms = sum(end - start for start, end in _training_spans(events))
    submitted_ms = sum(end - start for start, end in _submission_spans(run_path, events))
    return Durations(training_ms / 1000, max(0, submitted_ms - training_ms) / 1000)


def _training_spans(events: list[Event]) -> Iterator[tuple[int, int]]:
    """Unix times in ms, from the start of each attempt to its last event."""
    start_ms, last_ms = None, 0
    for event in events:
        if event.kind == "start":
            if start_ms is not None:
                yield start_ms, last_ms
            start_ms = event.time_ms
        last_ms = event.time_ms
    if start_ms is not None:
        yield start_ms, last_ms


def _submission_spans(run_path: Path, events: list[Event]) -> Iterator[tuple[int, int]]:
    marks = _marks(run_path / SUBMISSIONS_NAME)
    for number, mark in enumerate(marks):
        if mark.kind != "begin":
            continue
        begin_ms = mark.time_ms
        if number + 1 == len(marks):
            yield begin_ms, int(time.time() * 1000)
        elif marks[number + 1].kind == "end":
            yield begin_ms, marks[number + 1].time_ms
        else:
            next_ms = marks[number + 1].time_ms
            own = [e.time_ms for e in events if begin_ms <= e.time_ms <= next_ms]
            yield begin_ms, max(own, default=begin_ms)


def _marks(path: Path) -> list[_Mark]:
    """The lines of a file of submissions that are not damaged; none where it cannot be used."""
    try:
        lines = read_bounded(path, LIMIT_BYTES).splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnusableFileError) as error:
        logger.warning("times of waiting are not known: %s", error)
        return []
    marks = []
    for line in lines:
        with contextlib.suppress(ValueError):
            marks.append(_MARK.validate_json(line, strict=True))
    return marks
