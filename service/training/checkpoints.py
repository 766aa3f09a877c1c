"""Checkpoints: whole or absent, checked before use, readable without executing anything.

A checkpoint is a folder of the run: ``student.safetensors`` (and ``average.safetensors``),
``optimizer.pt`` (tensors and numbers only) and ``metadata.json`` with the counters and every
file's digest.
"""

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

STUDENT_NAME = "student.safetensors"
AVERAGE_NAME = "average.safetensors"
OPTIMIZER_NAME = "optimizer.pt"
METADATA_NAME = "metadata.json"


@dataclass
class Progress:
    """How far a run is. ``step`` counts optimizer steps done, ``epoch`` whole epochs done."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    last_top1: float | None = None
    last_top5: float | None = None
    best_top1: float | None = None
    best_top5: float | None = None
    best_epoch: int | None = None
    teacher_top1: float | None = None
    teacher_top5: float | None = None


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint at ``step``."""
    return f"checkpoint_{step:010d}"


def save_checkpoint(
    path: Path,
    spec_hash: str,
    student: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write a checkpoint under a temporary name and rename it to ``path`` when it is whole."""
    partial_path = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial_path, ignore_errors=True)
    partial_path.mkdir(parents=True)
    save_file(plain_state(student), partial_path / STUDENT_NAME)
    if average is not None:
        save_file(plain_state(average), partial_path / AVERAGE_NAME)
    torch.save(optimizer.state_dict(), partial_path / OPTIMIZER_NAME)
    metadata = {
        "format": 1,
        "spec_hash": spec_hash,
        "progress": asdict(progress),
        "sha256": {file.name: _sha256(file) for file in sorted(partial_path.iterdir())},
    }
    (partial_path / METADATA_NAME).write_text(json.dumps(metadata, indent=1) + "\n")
    for file in partial_path.iterdir():
        _sync(file)
    partial_path.rename(path)
    _sync(path.parent)


def load_checkpoint(
    path: Path,
    student: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Fill all three from a checkpoint that ``newest_checkpoint`` found good."""
    student.load_state_dict(load_file(path / STUDENT_NAME))
    if average is not None:
        average.load_state_dict(load_file(path / AVERAGE_NAME))
    optimizer.load_state_dict(
        torch.load(path / OPTIMIZER_NAME, weights_only=True, map_location="cpu")
    )
    return Progress(**read_metadata(path)["progress"])


def newest_checkpoint(run_path: Path) -> Path | None:
    """The newest checkpoint whose files all have the digests its metadata states."""
    if not run_path.is_dir():
        return None
    paths = [p for p in run_path.iterdir() if re.fullmatch(r"checkpoint_\d{10}", p.name)]
    return next((path for path in sorted(paths, reverse=True) if is_whole(path)), None)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint has all its files, unchanged."""
    try:
        digests = read_metadata(path)["sha256"]
        return all(_sha256(path / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, KeyError):
        return False


def read_metadata(path: Path) -> dict[str, Any]:
    """What a checkpoint says about itself."""
    metadata: dict[str, Any] = json.loads((path / METADATA_NAME).read_text())
    return metadata


def final_student_path(path: Path) -> Path:
    """The weights to use: the averaged ones where the run kept an average."""
    average = path / AVERAGE_NAME
    return average if average.exists() else path / STUDENT_NAME


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
