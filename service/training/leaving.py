"""Asking a run to end early, but well: one checkpoint, then every worker leaves.

The one who asks leaves a file beside the run; the worker of rank 0 looks out for it. Signals and
notices from the cluster reach each worker by itself (see ``cluster.trainer``).
"""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from service.files import write_atomically

REQUEST_PREFIX = ".leave_to_"
LOOK_S = 0.25

Purpose = Literal["stop", "resize"]
PURPOSES: tuple[Purpose, ...] = ("stop", "resize")

Notice = Callable[[], str | None]
"""Says why this worker must leave soon, or None."""


class LeavingError(Exception):
    """Ends every worker after the checkpoint that was asked for; the message says why."""


def ask_to_leave(run_path: Path, purpose: Purpose) -> None:
    """Let the workers save and leave; to be gone on with later (stop) or at once (resize).

    Raises:
        OSError: the storage does not take the request.
    """
    write_atomically(run_path / f"{REQUEST_PREFIX}{purpose}", "")


def asked_to_leave(run_path: Path) -> Purpose | None:
    """What was asked for, if anything; to stop is the stronger wish."""
    for purpose in PURPOSES:
        with contextlib.suppress(OSError):
            if (run_path / f"{REQUEST_PREFIX}{purpose}").exists():
                return purpose
    return None


def forget_request(run_path: Path, purpose: Purpose) -> None:
    """The workers have left, or new ones begin."""
    # Storage that fails now keeps it; then the next workers save and leave once more.
    with contextlib.suppress(OSError):
        (run_path / f"{REQUEST_PREFIX}{purpose}").unlink(missing_ok=True)


class RequestWatch:
    """Looks for the file on a thread of its own, so that slow storage costs no step."""

    def __init__(self, run_path: Path):
        self._run_path = run_path
        self._closing = threading.Event()
        self.request: Purpose | None = None
        """What was asked for."""
        self._thread = threading.Thread(target=self._watch, name="requests", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closing.wait(LOOK_S):
            self.request = asked_to_leave(self._run_path)
