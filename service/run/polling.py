"""A thread that calls a function at intervals."""

import threading
from collections.abc import Callable


class PollingThread:
    """Calls ``poll`` at once and then every ``interval_s`` seconds; ``name``: of the thread."""

    def __init__(self, name: str, interval_s: float, poll: Callable[[], None]):
        self._interval_s, self._poll = interval_s, poll
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, after the call that is running."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        self._poll()
        while not self._closing.wait(self._interval_s):
            self._poll()
