"""How a worker process died: Python's faulthandler writes it to a file in the run's folder.

A process that aborts, such as by NCCL's watchdog, or that crashes in native code, leaves the signal
and the Python stack there; one that was killed, such as for its memory, leaves nothing.
"""

import contextlib
import faulthandler
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_pipeline.files import open_regular, write_atomically
from data_pipeline.json_files import UnusableFileError, read_bounded

# A line of this form precedes what a worker leaves; what follows the last one is its newest crash.
START_PREFIX = "worker process"
# How the first line of faulthandler begins, and what follows there for SIGABRT.
FATAL_PREFIX = "Fatal Python error: "
ABORTED = "Aborted"
LIMIT_BYTES = 16_000_000


class Crash(NamedTuple):
    """``cause``: faulthandler's name of the signal, such as "Segmentation fault"."""

    cause: str
    path: Path

    @property
    def is_abort(self) -> bool:
        """Whether the process received SIGABRT."""
        return self.cause == ABORTED


def crash_path(run_path: Path, rank: int) -> Path:
    """The file of one worker; it has every crash of this rank in the run."""
    return run_path / f"crash_rank{rank}.txt"


@contextlib.contextmanager
def record_crash(run_path: Path, rank: int) -> Iterator[None]:
    """Let a crash of this process be written to the run's folder; without a crash nothing stays."""
    path = crash_path(run_path, rank)
    with contextlib.ExitStack() as stack:
        # Storage that fails has its own messages, and must not be reported as this.
        with contextlib.suppress(OSError, UnusableFileError):
            _remove_last_start(path)
            file = stack.enter_context(open_regular(path, "a"))
            print(f"{START_PREFIX} {os.getpid()}, {time.ctime()}", file=file, flush=True)
            # Ray's own is replaced: it writes where only Ray's logs are.
            faulthandler.enable(file)
            stack.callback(_end_record, path)
        yield


def _end_record(path: Path) -> None:
    faulthandler.enable(all_threads=False)
    with contextlib.suppress(OSError, UnusableFileError):
        _remove_last_start(path)


def _remove_last_start(path: Path) -> None:
    """Remove the line of a worker that left nothing after it, and a file without any crash."""
    try:
        text = _text_of(path)
    except FileNotFoundError:
        return
    before, _, crash = _split_last(text)
    if crash:
        return
    if before:
        write_atomically(path, before)
    else:
        path.unlink()


def _text_of(path: Path) -> str:
    return read_bounded(path, LIMIT_BYTES).decode(errors="replace")


def _split_last(text: str) -> tuple[str, str, str]:
    """What precedes the newest worker's line, that line, and what the worker left."""
    start = text.rfind(START_PREFIX)
    line, _, crash = text[start:].partition("\n")
    return text[:start], line, crash.strip()


def read_crash(run_path: Path, rank: int) -> Crash | None:
    """How the newest worker of this rank crashed; None if it was killed, or did not die."""
    path = crash_path(run_path, rank)
    try:
        crash = _split_last(_text_of(path))[2]
    except (OSError, UnusableFileError):
        return None
    if not crash.startswith(FATAL_PREFIX):
        return None
    return Crash(crash.removeprefix(FATAL_PREFIX).splitlines()[0], path)
