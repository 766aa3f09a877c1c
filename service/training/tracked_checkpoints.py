"""Which evaluated students wait for MLflow, and how they are written.

The order is crash-safe: file, then event, then the checkpoint that the run is resumed from. A run
that is killed in between evaluates again, and repeats what is missing.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from data_pipeline.files import atomic_path, sync_to_disk
from service.models.weights import file_metadata
from service.run.folder import FencingToken
from service.run.journal import Journal
from service.run.progress import Progress
from service.run.tracked_checkpoints import (
    make_folder,
    remove_waiting,
    tracked_checkpoint_path,
    waiting_steps,
)
from service.spec.job import JobSpec
from service.training.checkpoint import cpu_state_dict, write_weights
from service.training.checkpoint_saver import CheckpointSaver


class EvaluatedStudent(NamedTuple):
    """A copy in CPU memory; ``network``: see ``models.weights.file_metadata``."""

    weights: dict[str, Tensor]
    network: Mapping[str, str]
    step: int
    epoch: int
    values: Mapping[str, float]


class TrackedCheckpoints:
    """Copies each student that is due, which the saver's thread then writes; rank 0 alone has it.

    Only the newest writer of the run's folder writes. At most ``newest`` files wait, and one that
    is being written: older ones are removed, which MLflow would not keep either.
    """

    def __init__(
        self, spec: JobSpec, saver: CheckpointSaver, journal: Journal, token: FencingToken
    ):
        self._spec, self._tracked = spec, spec.tracked_checkpoints
        self._saver, self._journal, self._token = saver, journal, token

    def save_if_due(
        self, student: nn.Module, progress: Progress, values: Mapping[str, float]
    ) -> None:
        """Keep the student that was just evaluated, if the spec says so and it is not kept yet.

        ``student``: with the weights that were evaluated. ``values``: the metrics.

        Raises:
            CheckpointError: what was saved before it could not be written.
            FencedError: another worker has taken over the run.
        """
        if not self.is_due(progress) or self._journal.has("student", progress.step):
            return
        group = f"{self._spec.dataset.evaluated}/"
        evaluated = EvaluatedStudent(
            cpu_state_dict(student),
            file_metadata(student),
            progress.step,
            progress.epoch,
            {name: value for name, value in values.items() if name.startswith(group)},
        )
        self._saver.save_first(lambda: self._write(evaluated))

    def is_due(self, progress: Progress) -> bool:
        """Whether the student that was evaluated last is kept; the final one is logged anyway."""
        tracked, num_epochs = self._tracked, self._spec.schedule.num_epochs
        if tracked is None or progress.epoch == num_epochs or progress.last_nonfinite:
            return False
        if tracked.only_best and progress.best_epoch != progress.epoch:
            return False
        number = progress.epoch // self._spec.evaluation.every_epochs
        return number % tracked.every_evaluations == 0

    def _write(self, student: EvaluatedStudent) -> None:
        assert self._tracked is not None, "none is due otherwise"
        self._token.check()
        path = tracked_checkpoint_path(self._spec.run_path, student.step)
        make_folder(self._spec.run_path)
        with atomic_path(path) as partial_path:
            write_weights(student.weights, partial_path, student.network)
            self._token.check()
        for folder in (path.parent, self._spec.run_path):
            sync_to_disk(folder)
        self._journal.append("student", student.step, student.epoch, student.values)
        for step in waiting_steps(self._spec.run_path)[self._tracked.newest :]:
            remove_waiting(self._spec.run_path, step)
