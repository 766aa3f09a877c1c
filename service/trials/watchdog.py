"""Ends this process if it hangs, so that Ray Tune notices and starts its trial again elsewhere.

A process that is stopped, or whose threads all wait for one that holds Python's lock, can do
nothing about it. Another process waits for a sign of life and kills it when none comes.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from service.cluster.crashes import read_crash
from service.cluster.failures import HANG_TEXT, KILLED_TEXT, crash_line
from service.run.polling import PollingThread

HANG_NAME = ".hang"
BEATS_PER_TIMEOUT = 10
PROGRAM = """
import os, select, signal, sys

process_id, timeout_s, path = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
while select.select([0], [], [], timeout_s)[0]:
    if not os.read(0, 4096):
        sys.exit()
try:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666))
finally:
    os.kill(process_id, signal.SIGKILL)
"""


class Watchdog:
    """Watches this process until it is closed; ``timeout_s``: without a sign of life.

    Where it ends the process, it leaves a file in the run's folder, for ``death_text``.
    """

    def __init__(self, run_path: Path, timeout_s: float):
        with contextlib.suppress(OSError):
            (run_path / HANG_NAME).unlink(missing_ok=True)
        command = [sys.executable, "-I", "-S", "-c", PROGRAM]
        self._process = subprocess.Popen(
            [*command, str(os.getpid()), str(timeout_s), str(run_path / HANG_NAME)],
            stdin=subprocess.PIPE,
            # What stops or interrupts this process, and its group, leaves it alone.
            start_new_session=True,
        )
        self._thread = PollingThread("heartbeat", timeout_s / BEATS_PER_TIMEOUT, self._beat)

    def close(self) -> None:
        """End the watch."""
        self._thread.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _beat(self) -> None:
        assert self._process.stdin is not None
        # Somebody may have killed it.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._process.stdin.fileno(), b".")


def death_text(run_path: Path) -> str:
    """How the process that trained the run last died, on one line."""
    if (run_path / HANG_NAME).exists():
        return HANG_TEXT
    crash = read_crash(run_path, 0)
    return KILLED_TEXT if crash is None else crash_line(crash)
