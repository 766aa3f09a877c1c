"""What rank 0 writes into the run's folder while it trains: journal, checkpoints and students."""

import time
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from service.run.folder import FencingToken
from service.run.journal import JOURNAL_NAME, Journal, Kind, read_events
from service.run.progress import Progress
from service.run.tracked_checkpoints import remove_unnamed
from service.spec.job import JobSpec
from service.training.checkpoint_saver import CheckpointError, CheckpointSaver
from service.training.distributed import World
from service.training.tracked_checkpoints import TrackedCheckpoints


class _Writers(NamedTuple):
    journal: Journal
    saver: CheckpointSaver
    tracked: TrackedCheckpoints


class RunLog:
    """Appends events to the journal with the time left; on other ranks than 0 it does nothing."""

    def __init__(self, spec: JobSpec, world: World):
        self._writers = _open_run_folder(spec) if world.rank == 0 else None
        self._num_steps = 0

    @property
    def saver(self) -> CheckpointSaver | None:
        """Writes the run's checkpoints; None on other ranks than 0."""
        return self._writers.saver if self._writers is not None else None

    @property
    def note(self) -> Callable[[str], None]:
        """Takes a message for the log; other ranks than 0 print it."""
        return self._writers.journal.note if self._writers is not None else print

    def start(self, progress: Progress, num_steps: int, text: str) -> None:
        """Log the start of the training; ``num_steps``: optimizer steps of the whole run."""
        self._num_steps = num_steps
        self._start_s, self._start_step = time.monotonic(), progress.step
        self.record("start", progress, {}, text)

    def record(
        self, kind: Kind, progress: Progress, values: dict[str, float], text: str = ""
    ) -> None:
        """Append an event at the run's current step."""
        if self._writers is None:
            return
        num_done = progress.step - self._start_step
        elapsed_s = time.monotonic() - self._start_s
        eta_s = elapsed_s / num_done * (self._num_steps - progress.step) if num_done else None
        self._writers.journal.append(kind, progress.step, progress.epoch, values, eta_s, text)

    def record_evaluation(
        self, student: nn.Module, progress: Progress, values: dict[str, float]
    ) -> None:
        """Append the evaluation of ``student``, and keep it for MLflow if that is due.

        Raises:
            CheckpointError: what was saved before it could not be written.
            FencedError: another worker has taken over the run.
        """
        self.record("evaluation", progress, values)
        if self._writers is not None:
            self._writers.tracked.save_if_due(student, progress, values)


def _open_run_folder(spec: JobSpec) -> _Writers:
    """The writers of the run's folder, which no earlier worker may write to any more.

    Raises:
        CheckpointError: the storage fails.
    """
    path = spec.run_path / JOURNAL_NAME
    try:
        token = FencingToken(spec.run_path)
        steps = {event.step for event in read_events(path) if event.kind == "student"}
        remove_unnamed(spec.run_path, steps)
    except OSError as error:
        raise CheckpointError(
            f"{spec.run_path} cannot be written ({error.strerror}); fix the storage, then submit "
            "the same spec again"
        ) from error
    journal = Journal(path, spec.tracking.journal_limit_bytes, token)
    saver = CheckpointSaver(
        spec.run_path, spec.content_hash(), spec.checkpoints.num_to_keep, journal, token
    )
    return _Writers(journal, saver, TrackedCheckpoints(spec, saver, journal, token))
