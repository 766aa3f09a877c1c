"""A run that waits for room on the cluster: its controller writes what for, its driver shows it."""

import contextlib
import json
import time
from pathlib import Path
from typing import NamedTuple

from data_pipeline.files import write_atomically
from data_pipeline.json_files import UnusableFileError
from service.run.state_files import read_typed

WAITING_NAME = "waiting.json"


class Waiting(NamedTuple):
    """``text``: what a run waits for, and what is free. ``since_time``: Unix seconds."""

    text: str
    since_time: float


def report_waiting(run_path: Path, text: str) -> None:
    """Record what a run waits for; where the storage fails, that is not shown."""
    since_time = time.time()
    if (earlier := read_waiting(run_path)) is not None:
        since_time = earlier.since_time
    with contextlib.suppress(OSError):
        content = json.dumps(Waiting(text, since_time)._asdict())
        write_atomically(run_path / WAITING_NAME, content + "\n")


def clear_waiting(run_path: Path) -> None:
    """Record that a run does not wait any more."""
    with contextlib.suppress(OSError):
        (run_path / WAITING_NAME).unlink(missing_ok=True)


def read_waiting(run_path: Path) -> Waiting | None:
    """What a run waits for; None if it does not wait."""
    with contextlib.suppress(OSError, UnusableFileError):
        return read_typed(run_path / WAITING_NAME, Waiting)
    return None
