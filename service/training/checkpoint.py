"""The format of a checkpoint: complete or absent, verified before use, loaded without unpickling.

A checkpoint is a folder of the run: ``student.safetensors`` (and ``ema.safetensors``, and
``objective.safetensors`` where a loss has learned parameters or saved state),
``optimizer.pt`` and ``per_rank_state.pt`` (tensors and numbers only), and ``metadata.json`` with
the run's progress and the SHA-256 digest of every file.
"""

import contextlib
import errno
import json
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from data_pipeline.files import partial_name, remove_tree, sha256_of, sync_to_disk
from data_pipeline.json_files import UnusableFileError
from service.models.weights import fill, save_weights
from service.run.folder import STUDENT_NAME
from service.run.progress import Progress
from service.run.state_files import read_typed
from service.training.average import WeightAverage

EMA_NAME = "ema.safetensors"
OBJECTIVE_NAME = "objective.safetensors"
OPTIMIZER_NAME = "optimizer.pt"
PER_RANK_STATE_NAME = "per_rank_state.pt"
METADATA_NAME = "metadata.json"
FORMAT: Literal[3] = 3
REQUIRED_NAMES = {STUDENT_NAME, OPTIMIZER_NAME, PER_RANK_STATE_NAME}
OPTIONAL_NAMES = {EMA_NAME, OBJECTIVE_NAME}

NAME_PATTERN = re.compile(r"checkpoint_(\d{10})(-unevaluated)?")


def checkpoint_name(step: int, *, is_evaluated: bool = True) -> str:
    """Folder name of the checkpoint at ``step``; before its epoch was evaluated, if that is due."""
    return f"checkpoint_{step:010d}" + ("" if is_evaluated else "-unevaluated")


class Metadata(NamedTuple):
    """The content of metadata.json; ``sha256``: digests of the other files, by name."""

    format: Literal[3]
    spec_hash: str
    progress: Progress
    sha256: dict[str, str]


class Snapshot(NamedTuple):
    """A copy in CPU memory of everything that a run is resumed from.

    ``ema`` has the same names as ``student``, so it too can be used as weights. ``per_rank`` has
    each worker's own state: BatchNorm's statistics since they were last averaged over workers, what
    losses have added up in this epoch, the metrics since the last progress line, and how many steps
    the EMA has seen. Not ``is_evaluated`` is a state at an epoch's end whose evaluation is still to
    come. ``network``: what else is needed beside the weights, see ``models.weights.file_metadata``.
    ``objective`` is what the losses have learned or saved; empty for most.
    """

    student: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    per_rank: list[dict[str, Any]]
    progress: Progress
    is_evaluated: bool = True
    network: Mapping[str, str] = {"format": "pt"}
    objective: Mapping[str, Tensor] = {}


def save_checkpoint(
    path: Path, spec_hash: str, snapshot: Snapshot, check_fence: Callable[[], None] = lambda: None
) -> None:
    """Write a checkpoint under a temporary name and rename it to ``path`` when it is complete.

    ``check_fence`` is called before the rename and raises if another process has taken over.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    # A run that was resumed from an older checkpoint reaches this one again.
    if path.exists() and is_intact(path):
        return
    remove_tree(path)
    # A random name: a worker that was replaced may still be writing its own.
    partial_path = partial_name(path)
    try:
        partial_path.mkdir(parents=True)
        write_weights(snapshot.student, partial_path / STUDENT_NAME, snapshot.network)
        if snapshot.ema is not None:
            write_weights(snapshot.ema, partial_path / EMA_NAME, snapshot.network)
        if snapshot.objective:
            write_weights(dict(snapshot.objective), partial_path / OBJECTIVE_NAME, {"format": "pt"})
        _save_tensors(snapshot.optimizer, partial_path / OPTIMIZER_NAME)
        _save_tensors(snapshot.per_rank, partial_path / PER_RANK_STATE_NAME)
        digests = {file.name: sha256_of(file) for file in sorted(partial_path.iterdir())}
        metadata = Metadata(FORMAT, spec_hash, snapshot.progress, digests)
        content = metadata._asdict() | {"progress": asdict(snapshot.progress)}
        (partial_path / METADATA_NAME).write_text(json.dumps(content, indent=1) + "\n")
        for file in partial_path.iterdir():
            sync_to_disk(file)
        sync_to_disk(partial_path)
        check_fence()
        partial_path.rename(path)
        sync_to_disk(path.parent)
    except BaseException:
        shutil.rmtree(partial_path, ignore_errors=True)
        raise


def write_weights(weights: dict[str, Tensor], path: Path, network: Mapping[str, str]) -> None:
    """Write a .safetensors file; ``network``: see ``models.weights.file_metadata``.

    Raises:
        OSError: it cannot be written, with errno EIO where the writer of the format fails.
    """
    try:
        save_weights(weights, path, network)
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
    ema: WeightAverage | None,
    optimizer: torch.optim.Optimizer,
    objective: nn.Module | None = None,
) -> tuple[Progress, list[dict[str, Any]]]:
    """Fill them all from a checkpoint that ``newest_checkpoint`` has verified.

    Returns the run's progress, and each rank's own state.

    Raises:
        OSError: a file cannot be read, with errno EIO where the reader of its format fails.
    """
    fill(student, _load_weights(path / STUDENT_NAME))
    if ema is not None:
        fill(ema.module, _load_weights(path / EMA_NAME))
    if objective is not None and objective.state_dict():
        fill(objective, _load_weights(path / OBJECTIVE_NAME))
    optimizer.load_state_dict(_load_tensors(path / OPTIMIZER_NAME))
    return read_metadata(path).progress, _load_tensors(path / PER_RANK_STATE_NAME)


def _load_tensors(path: Path) -> Any:  # noqa: ANN401 - what torch saved
    return torch.load(path, weights_only=True, map_location="cpu")


def checkpoint_paths(run_path: Path) -> list[Path]:
    """All checkpoints of a run, newest first, intact or not."""
    found = []
    for path in run_path.iterdir() if run_path.is_dir() else ():
        if match := NAME_PATTERN.fullmatch(path.name):
            found.append(((int(match[1]), match[2] is None), path))
    return [path for _, path in sorted(found, reverse=True)]


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint; what is left of it if the process is killed is not taken for one."""
    doomed = partial_name(path)
    path.rename(doomed)
    remove_tree(doomed)


def remove_leftovers(run_path: Path) -> None:
    """Remove partial checkpoints that killed processes left behind."""
    for path in run_path.glob(".checkpoint_*.partial"):
        with contextlib.suppress(OSError):
            remove_tree(path)


def newest_checkpoint(run_path: Path) -> Path | None:
    """The newest intact checkpoint; None if there is none.

    Raises:
        OSError: the storage fails, which says nothing about the checkpoints.
    """
    return next((path for path in checkpoint_paths(run_path) if is_intact(path)), None)


def quarantine_damaged(run_path: Path) -> list[str]:
    """Rename the checkpoints that are newer than the newest intact one; a log line for each."""
    lines = []
    for path in checkpoint_paths(run_path):
        if is_intact(path):
            break
        renamed = path.with_name(f"damaged_{path.name}")
        remove_tree(renamed)
        path.rename(renamed)
        lines.append(f"{path.name} is damaged and was renamed to {renamed.name}")
    return lines


def is_intact(path: Path) -> bool:
    """Whether a checkpoint has all its files, with the digests that its metadata states.

    Raises:
        OSError: the storage fails, which says nothing about the checkpoint.
    """
    try:
        digests = read_metadata(path).sha256
        # Whether there are others depends on the run; one that is there must have a digest.
        names = REQUIRED_NAMES | {name for name in OPTIONAL_NAMES if (path / name).exists()}
        if digests.keys() != names or path.is_symlink():
            return False
        return all(_has_digest(path / name, digest) for name, digest in digests.items())
    except (FileNotFoundError, NotADirectoryError, UnusableFileError):
        return False


def _has_digest(path: Path, digest: str) -> bool:
    return stat.S_ISREG(path.lstat().st_mode) and sha256_of(path) == digest


def read_metadata(path: Path) -> Metadata:
    """The metadata of a checkpoint.

    Raises:
        UnusableFileError: it is damaged, or of another version.
        OSError: it cannot be read.
    """
    return read_typed(path / METADATA_NAME, Metadata)


def final_student_path(path: Path) -> Path:
    """The weights to evaluate and export: the EMA's if the run has one."""
    ema = path / EMA_NAME
    return ema if ema.exists() else path / STUDENT_NAME


def copied_to_cpu(value: Any) -> Any:  # noqa: ANN401 - a tree of tensors and numbers
    """The same tree with its tensors copied to CPU memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied_to_cpu(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [copied_to_cpu(entry) for entry in value]
    return value


def mean_of_ranks(ranks: list[Any]) -> Any:  # noqa: ANN401 - equal trees of tensors and numbers
    """The mean of the workers' states, for resuming with another number of workers."""
    first = ranks[0]
    if isinstance(first, dict):
        return {key: mean_of_ranks([rank[key] for rank in ranks]) for key in first}
    if isinstance(first, list):
        return [mean_of_ranks(list(entries)) for entries in zip(*ranks, strict=True)]
    return sum(ranks[1:], first) / len(ranks)


def cpu_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """A state dict that safetensors accepts: contiguous CPU tensors that share no memory."""
    return {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in model.state_dict().items()
    }
