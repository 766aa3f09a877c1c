"""Which runs of trials are still training: a trial that was stopped first saves and exits."""

import contextlib
from pathlib import Path

OPEN_NAME = ".open"


def mark_open(run_path: Path) -> None:
    """Record that a process trains the run.

    Raises:
        OSError: the storage fails.
    """
    (run_path / OPEN_NAME).touch()


def mark_closed(run_path: Path) -> None:
    """Record that no process trains the run any more."""
    with contextlib.suppress(OSError):
        (run_path / OPEN_NAME).unlink(missing_ok=True)


def is_open(run_path: Path) -> bool:
    """Whether a process trains the run, or was killed while it did."""
    return (run_path / OPEN_NAME).exists()
