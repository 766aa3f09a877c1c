"""Files beside a run: seen whole or not at all, and written by one process at a time."""

import os
import uuid
from pathlib import Path

from data_pipeline.patience import patiently

WRITER_NAME = ".writer"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that is never seen half-written; text as UTF-8."""
    partial_path = path.with_name(path.name + ".partial")
    with partial_path.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        # Or a machine that loses its power may keep the name and not the text.
        os.fsync(file.fileno())
    partial_path.replace(path)


class SupersededError(RuntimeError):
    """Another process has taken over the run's folder; this one must leave it alone."""


class WriterToken:
    """The right to write into a run's folder: whoever came last has it.

    A worker that was cut off or given up may live on beside its successor. It asks here before it
    writes, and finds that it is no longer its turn.
    """

    def __init__(self, run_path: Path):
        self._path = run_path / WRITER_NAME
        self._text = uuid.uuid4().hex
        patiently(lambda: write_atomically(self._path, self._text))

    def check(self) -> None:
        """Return while this is the newest writer.

        Raises:
            SupersededError: it is not.
            OSError: the storage does not tell.
        """
        if self._path.read_text() != self._text:
            raise SupersededError(f"another worker has taken over {self._path.parent}")
