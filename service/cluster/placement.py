"""What a run's workers hold of the cluster, written beside the run by whoever holds it.

Ray keeps a placement group whose maker was killed for as long as the Ray job lives; then another
process of the job must let go of it.
"""

import contextlib
from pathlib import Path

from ray._raylet import PlacementGroupID
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup, WorkerGroupContext
from ray.util.placement_group import PlacementGroup, remove_placement_group

from service.files import write_atomically

PLACEMENT_NAME = ".placement_group"


class PlacementRecord(WorkerGroupCallback):  # type: ignore[misc]
    """Keeps the file: it is there while workers are."""

    def __init__(self, run_path: Path):
        self._path = run_path / PLACEMENT_NAME

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """Ray calls this when the workers have been placed."""
        handle = worker_group.get_worker_group_state().placement_group_handle
        with contextlib.suppress(OSError):
            write_atomically(self._path, handle.placement_group.id.hex())

    def after_worker_group_shutdown(
        self,
        worker_group_context: WorkerGroupContext,  # noqa: ARG002 - Ray's interface
    ) -> None:
        """Ray calls this when it has let go of it."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def is_placed(run_path: Path) -> bool:
    """Whether a run has workers."""
    return (run_path / PLACEMENT_NAME).exists()


def release_placement(run_path: Path) -> None:
    """Let go of what the workers of a run hold whose controller was killed; they end with it."""
    path = run_path / PLACEMENT_NAME
    with contextlib.suppress(OSError, ValueError):
        group_id = PlacementGroupID.from_hex(path.read_text())
        remove_placement_group(PlacementGroup(group_id))
        path.unlink()
