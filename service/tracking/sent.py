"""How much of a run's journal MLflow has: the number of the last event it took."""

import contextlib
from pathlib import Path

from service.files import write_atomically

SENT_NAME = "journal.sent"


class Sent:
    """Remembered beside the run; what is sent twice because it could not be noted does no harm."""

    def __init__(self, run_path: Path):
        self._path = run_path / SENT_NAME
        self.number = 0
        with contextlib.suppress(FileNotFoundError, ValueError):
            self.number = int(self._path.read_text())

    def note(self, number: int) -> None:
        """MLflow has everything up to this event."""
        self.number = number
        with contextlib.suppress(OSError):
            write_atomically(self._path, f"{number}\n")
