"""The placement group of a run's workers, recorded in the run's folder.

Ray keeps a placement group whose creator was killed for as long as the Ray job lives; then another
process of the job must release it.
"""

import contextlib
from pathlib import Path

from ray.util.placement_group import PlacementGroup, remove_placement_group

from data_pipeline.files import write_atomically
from service.cluster.ray_internals import placement_group_of
from service.run.state_files import read_text_if_usable

PLACEMENT_NAME = ".placement_group"


def record_placement(run_path: Path, group: PlacementGroup) -> None:
    """Record that a run's workers have, or are about to get, this placement group."""
    with contextlib.suppress(OSError):
        write_atomically(run_path / PLACEMENT_NAME, group.id.hex())


def clear_placement(run_path: Path) -> None:
    """Record that a run's workers hold nothing any more, or that another run has them."""
    with contextlib.suppress(OSError):
        (run_path / PLACEMENT_NAME).unlink(missing_ok=True)


def is_placed(run_path: Path) -> bool:
    """Whether a placement group is recorded for a run."""
    return (run_path / PLACEMENT_NAME).exists()


def release_placement(run_path: Path) -> None:
    """Release the placement group of a run whose controller was killed; its workers end with it."""
    path = run_path / PLACEMENT_NAME
    with contextlib.suppress(OSError, ValueError):
        remove_placement_group(placement_group_of(read_text_if_usable(path) or ""))
        path.unlink()
