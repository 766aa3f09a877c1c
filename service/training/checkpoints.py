"""Checkpoints: whole or absent, checked before use, readable without executing anything.

A checkpoint is a folder of the run: ``student.safetensors`` (and ``average.safetensors``),
``optimizer.pt`` and ``ranks.pt`` (tensors and numbers only) and ``metadata.json`` with the counters
and every file's digest.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

STUDENT_NAME = "student.safetensors"
AVERAGE_NAME = "average.safetensors"
OPTIMIZER_NAME = "optimizer.pt"
RANKS_NAME = "ranks.pt"
METADATA_NAME = "metadata.json"


@dataclass
class Progress:
    """How far a run is. ``step`` counts optimizer steps done, ``epoch`` whole epochs done,
    ``skipped`` the steps among them whose gradient was not finite.
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    skipped: int = 0
    last_top1: float | None = None
    last_top5: float | None = None
    best_top1: float | None = None
    best_top5: float | None = None
    best_epoch: int | None = None
    teacher_top1: float | None = None
    teacher_top5: float | None = None


NAME_PATTERN = re.compile(r"checkpoint_(\d{10})(-unevaluated)?")


def checkpoint_name(step: int, *, is_evaluated: bool = True) -> str:
    """Folder name of the checkpoint at ``step``; before its epoch was evaluated, if that is due."""
    return f"checkpoint_{step:010d}" + ("" if is_evaluated else "-unevaluated")


class Snapshot(NamedTuple):
    """A copy of all that a run goes on from, in ordinary memory.

    ``average`` has the same names as ``student``: it too can be used as weights. ``ranks`` has what
    each worker keeps to itself: BatchNorm's statistics since they were last averaged, the metrics
    since the last progress line, and how many steps went into the average.
    """

    student: dict[str, Tensor]
    average: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    ranks: list[dict[str, Any]]
    progress: Progress
    is_evaluated: bool = True


def save_checkpoint(
    path: Path, spec_hash: str, snapshot: Snapshot, may_write: Callable[[], None] = lambda: None
) -> None:
    """Write a checkpoint under a temporary name and rename it to ``path`` when it is whole.

    ``may_write`` raises if, by then, another process has taken over the run.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    if path.exists():
        # A run that was resumed from an older one comes by here again.
        if is_whole(path):
            return
        shutil.rmtree(path)
    # Another worker's, one that was given up, must not be written into.
    partial_path = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial_path.mkdir(parents=True)
        _save_weights(snapshot.student, partial_path / STUDENT_NAME)
        if snapshot.average is not None:
            _save_weights(snapshot.average, partial_path / AVERAGE_NAME)
        _save_tensors(snapshot.optimizer, partial_path / OPTIMIZER_NAME)
        _save_tensors(snapshot.ranks, partial_path / RANKS_NAME)
        metadata = {
            "format": 2,
            "spec_hash": spec_hash,
            "progress": asdict(snapshot.progress),
            "sha256": {file.name: _sha256(file) for file in sorted(partial_path.iterdir())},
        }
        (partial_path / METADATA_NAME).write_text(json.dumps(metadata, indent=1) + "\n")
        for file in partial_path.iterdir():
            _sync(file)
        _sync(partial_path)
        may_write()
        partial_path.rename(path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(partial_path, ignore_errors=True)
        raise


def _save_weights(weights: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(weights, path)
    except SafetensorError as error:
        raise OSError(errno.EIO, f"{path.name} cannot be written ({error})") from error


def _load_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise OSError(errno.EIO, f"{path.name} cannot be read ({error})") from error


def _save_tensors(content: object, path: Path) -> None:
    try:
        torch.save(content, path)
    except RuntimeError as error:
        # torch's own writer hides what the system said.
        raise OSError(errno.EIO, f"{path.name} cannot be written ({error})") from error


def load_checkpoint(
    path: Path,
    student: nn.Module,
    average: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
) -> tuple[Progress, list[dict[str, Any]]]:
    """Fill all three from a checkpoint that ``newest_checkpoint`` found good.

    Returns how far the run was, and what each rank kept to itself.
    """
    student.load_state_dict(_load_weights(path / STUDENT_NAME))
    if average is not None:
        average.module.load_state_dict(_load_weights(path / AVERAGE_NAME))
    optimizer.load_state_dict(_load_tensors(path / OPTIMIZER_NAME))
    return Progress(**read_metadata(path)["progress"]), _load_tensors(path / RANKS_NAME)


def _load_tensors(path: Path) -> Any:  # noqa: ANN401 - what torch saved
    return torch.load(path, weights_only=True, map_location="cpu")


def checkpoint_paths(run_path: Path) -> list[Path]:
    """All checkpoints of a run, the newest first, whole or not."""
    found = []
    for path in run_path.iterdir() if run_path.is_dir() else ():
        if match := NAME_PATTERN.fullmatch(path.name):
            found.append(((int(match[1]), match[2] is None), path))
    return [path for _, path in sorted(found, reverse=True)]


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint; what a kill leaves of it is never taken for one."""
    doomed = path.with_name(f".{path.name}.partial")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def remove_leftovers(run_path: Path) -> None:
    """Remove what killed processes left of checkpoints that they wrote or removed."""
    for path in run_path.glob(".checkpoint_*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def newest_checkpoint(run_path: Path) -> Path | None:
    """The newest checkpoint whose files all have the digests its metadata states."""
    return next((path for path in checkpoint_paths(run_path) if is_whole(path)), None)


def set_damaged_aside(run_path: Path) -> list[str]:
    """Rename checkpoints that are newer than the newest whole one; a line about each."""
    lines = []
    for path in checkpoint_paths(run_path):
        if is_whole(path):
            break
        aside = path.with_name(f"damaged_{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        lines.append(f"{path.name} is damaged and was set aside as {aside.name}")
    return lines


def is_whole(path: Path) -> bool:
    """Whether a checkpoint has all its files, unchanged.

    Raises:
        OSError: the storage fails, which says nothing about the checkpoint.
    """
    try:
        digests = read_metadata(path)["sha256"]
        return all(_sha256(path / name) == digest for name, digest in digests.items())
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return False


def read_metadata(path: Path) -> dict[str, Any]:
    """What a checkpoint says about itself."""
    metadata: dict[str, Any] = json.loads((path / METADATA_NAME).read_text())
    return metadata


def final_student_path(path: Path) -> Path:
    """The weights to use: the averaged ones where the run kept an average."""
    average = path / AVERAGE_NAME
    return average if average.exists() else path / STUDENT_NAME


def copied(value: Any) -> Any:  # noqa: ANN401 - a tree of tensors and numbers
    """The same tree with tensors copied to ordinary memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [copied(entry) for entry in value]
    return value


def mean_of_ranks(ranks: list[Any]) -> Any:  # noqa: ANN401 - equal trees of tensors and numbers
    """The mean over workers of what they kept, for another number of workers to go on from."""
    first = ranks[0]
    if isinstance(first, dict):
        return {key: mean_of_ranks([rank[key] for rank in ranks]) for key in first}
    if isinstance(first, list):
        return [mean_of_ranks(list(entries)) for entries in zip(*ranks, strict=True)]
    return sum(ranks[1:], first) / len(ranks)


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """A state dict as safetensors wants it: contiguous tensors of their own."""
    return {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in model.state_dict().items()
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
