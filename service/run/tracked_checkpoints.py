"""Files of students on their way to MLflow: one for each event "student" of the journal.

They are apart from the checkpoints that a run is resumed from. Rank 0 writes a file, then its
event, and keeps the newest files; the driver removes each file when MLflow has it.
"""

import re
import shutil
from collections.abc import Container
from pathlib import Path

from data_pipeline.files import NotRegularError, open_regular, remove_tree

FOLDER_NAME = "tracked_checkpoints"
NAME_PATTERN = re.compile(r"step_(\d{10})\.safetensors")


def tracked_checkpoint_path(run_path: Path, step: int) -> Path:
    """The file of the student after ``step`` optimizer steps."""
    return run_path / FOLDER_NAME / f"step_{step:010d}.safetensors"


def make_folder(run_path: Path) -> None:
    """Create the folder; a link in its place is replaced, which would lead somewhere else.

    Raises:
        OSError: the storage fails.
    """
    folder = run_path / FOLDER_NAME
    if folder.is_symlink():
        folder.unlink()
    folder.mkdir(exist_ok=True)


def copy_waiting(run_path: Path, step: int, copied: Path) -> None:
    """Copy the file of a step to ``copied``.

    Raises:
        FileNotFoundError: there is none any more.
        NotRegularError: there is something else, such as a link.
        OSError: the storage fails.
    """
    folder = run_path / FOLDER_NAME
    if folder.is_symlink():
        raise NotRegularError(str(folder), folder.lstat().st_mode)
    with (
        open_regular(tracked_checkpoint_path(run_path, step), "rb") as source,
        copied.open("wb") as target,
    ):
        shutil.copyfileobj(source, target)


def remove_waiting(run_path: Path, step: int) -> None:
    """Remove the file of a step, if there is one.

    Raises:
        OSError: the storage fails.
    """
    path = tracked_checkpoint_path(run_path, step)
    if path.name in _names(run_path):
        remove_tree(path)


def waiting_steps(run_path: Path) -> list[int]:
    """Steps of the files that are there, the newest first.

    Raises:
        OSError: the storage fails.
    """
    matches = (NAME_PATTERN.fullmatch(name) for name in _names(run_path))
    return sorted((int(match[1]) for match in matches if match), reverse=True)


def remove_unnamed(run_path: Path, steps: Container[int]) -> None:
    """Remove what is of none of ``steps``, those of the journal: killed processes left it.

    Raises:
        OSError: the storage fails.
    """
    for name in _names(run_path):
        match = NAME_PATTERN.fullmatch(name)
        if match is None or int(match[1]) not in steps:
            remove_tree(run_path / FOLDER_NAME / name)


def _names(run_path: Path) -> list[str]:
    """Names in the folder; none in one that is a link, which is not the run's."""
    folder = run_path / FOLDER_NAME
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [path.name for path in folder.iterdir()]
