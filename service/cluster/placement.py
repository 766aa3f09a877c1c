"""What a run's workers hold of the cluster, written beside the run by whoever holds it.

Ray keeps a placement group whose maker was killed for as long as the Ray job lives; then another
process of the job must let go of it.
"""

import contextlib
from pathlib import Path

from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group

from service.files import write_atomically

PLACEMENT_NAME = ".placement_group"


def record_placement(run_path: Path, group: PlacementGroup) -> None:
    """Write down that a run's workers are to be, or are, in this placement group."""
    with contextlib.suppress(OSError):
        write_atomically(run_path / PLACEMENT_NAME, group.id.hex())


def forget_placement(run_path: Path) -> None:
    """They hold nothing any more, or another run does in their place."""
    with contextlib.suppress(OSError):
        (run_path / PLACEMENT_NAME).unlink(missing_ok=True)


def is_placed(run_path: Path) -> bool:
    """Whether a run's workers hold anything."""
    return (run_path / PLACEMENT_NAME).exists()


def release_placement(run_path: Path) -> None:
    """Let go of what the workers of a run hold whose controller was killed; they end with it."""
    path = run_path / PLACEMENT_NAME
    with contextlib.suppress(OSError, ValueError):
        group_id = PlacementGroupID.from_hex(path.read_text())
        remove_placement_group(PlacementGroup(group_id))
        path.unlink()
