"""What rank 0 writes into the run's folder while it trains: the journal, and checkpoints."""

import time
from collections.abc import Callable

from service.run.folder import FencingToken
from service.run.journal import JOURNAL_NAME, Journal, Kind
from service.run.progress import Progress
from service.spec.job import JobSpec
from service.training.checkpoint_saver import CheckpointError, CheckpointSaver
from service.training.distributed import World


class RunLog:
    """Appends events to the journal with the time left; on other ranks than 0 it does nothing."""

    def __init__(self, spec: JobSpec, world: World):
        self._journal: Journal | None = None
        self.saver: CheckpointSaver | None = None
        """Writes the run's checkpoints; None on other ranks than 0."""
        if world.rank == 0:
            self._journal, self.saver = _open_run_folder(spec)
        self._num_steps = 0

    @property
    def note(self) -> Callable[[str], None]:
        """Takes a message for the log; other ranks than 0 print it."""
        return self._journal.note if self._journal is not None else print

    def start(self, progress: Progress, num_steps: int, text: str) -> None:
        """Log the start of the training; ``num_steps``: optimizer steps of the whole run."""
        self._num_steps = num_steps
        self._start_s, self._start_step = time.monotonic(), progress.step
        self.record("start", progress, {}, text)

    def record(
        self, kind: Kind, progress: Progress, values: dict[str, float], text: str = ""
    ) -> None:
        """Append an event at the run's current step."""
        if self._journal is None:
            return
        num_done = progress.step - self._start_step
        elapsed_s = time.monotonic() - self._start_s
        eta_s = elapsed_s / num_done * (self._num_steps - progress.step) if num_done else None
        self._journal.append(kind, progress.step, progress.epoch, values, eta_s, text)


def _open_run_folder(spec: JobSpec) -> tuple[Journal, CheckpointSaver]:
    """The writers of the run's folder, which no earlier worker may write to any more.

    Raises:
        CheckpointError: the storage fails.
    """
    try:
        token = FencingToken(spec.run_path)
    except OSError as error:
        raise CheckpointError(
            f"{spec.run_path} cannot be written ({error.strerror}); fix the storage, then submit "
            "the same spec again"
        ) from error
    journal = Journal(spec.run_path / JOURNAL_NAME, spec.tracking.journal_limit_bytes, token)
    saver = CheckpointSaver(
        spec.run_path, spec.content_hash(), spec.checkpoints.num_to_keep, journal, token
    )
    return journal, saver
