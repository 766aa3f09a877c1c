"""Shows what a run waits for: in its log, at growing intervals, and in its status."""

import time
from collections.abc import Callable
from pathlib import Path

from service.run.polling import PollingThread
from service.run.report import duration
from service.run.waiting import read_waiting

POLL_S = 1.0
FIRST_INTERVAL_S = 15.0
MAX_INTERVAL_S = 600.0


class WaitingViewer:
    """Follows a run's waiting, on a thread.

    ``show`` is called with a line for the log, when the run begins to wait and then after 15
    seconds, 30, one minute, and so on up to ten minutes. ``update`` is called every second with the
    same text, or None while the run does not wait.
    """

    def __init__(
        self, run_path: Path, show: Callable[[str], None], update: Callable[[str | None], None]
    ):
        self._run_path, self._show, self._update = run_path, show, update
        self._next_s = 0.0
        self._thread = PollingThread("waiting", POLL_S, self._poll)

    def close(self) -> None:
        """End the thread."""
        self._thread.close()

    def _poll(self) -> None:
        waiting = read_waiting(self._run_path)
        if waiting is None:
            self._next_s = 0.0
            self._update(None)
            return
        waited_s = max(0.0, time.time() - waiting.since_time)
        line = f"{waiting.text}, waited {duration(waited_s)}"
        self._update(line)
        if waited_s >= self._next_s:
            interval_s = min(max(FIRST_INTERVAL_S, waited_s), MAX_INTERVAL_S)
            self._next_s = waited_s + interval_s
            self._show(line)
