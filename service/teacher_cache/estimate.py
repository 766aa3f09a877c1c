"""What a cache of the teacher's logits takes and saves, for plans of one run and of many."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from data_pipeline.text import format_bytes, format_duration
from service.spec.job import JobSpec
from service.spec.teacher_cache_rules import num_trained_images
from service.teacher_cache.demand import Runs, SharedLogits, shared_logits
from service.teacher_cache.differences import differences

# A GPU's rate in networks, of the order of an A100's; no plan can measure the cluster's.
GPU_FLOPS_PER_S = 1e14
NUM_PRODUCTS, SIDE = 4, 1024
MAX_LINES = 20
MAX_LABEL_FIELDS = 4
CONCURRENT_TEXT = (
    "teacher.cache: runs that train at the same time each compute what is not stored yet; python "
    "jobs/cache_teacher.py with this spec, beforehand, computes it once for all of them"
)

TeacherFlops = Callable[[JobSpec], int]
"""FLOPs per image of all networks of a job's teacher."""


class _Part(NamedTuple):
    """The logits under a key; ``num_stored``: of its epochs."""

    shared: SharedLogits
    num_stored: float

    @property
    def num_missing(self) -> float:
        return len(self.shared.epochs) - self.num_stored


class _Passes(NamedTuple):
    """Passes of the teacher over the images of an epoch, and the FLOPs of all of them."""

    num: float = 0.0
    flops: float = 0.0

    def plus(self, num: float, flops_each: float) -> "_Passes":
        return _Passes(self.num + num, self.flops + num * flops_each)


def cache_lines(
    runs: Sequence[Runs], teacher_flops: TeacherFlops, *, are_concurrent: bool = False
) -> Iterator[str]:
    """Lines about bytes, what is stored, and time, for a person; none without a cache.

    ``are_concurrent``: whether some of the runs train at the same time.

    Raises:
        OSError: a file of weights cannot be read.
    """
    runs = [each for each in runs if each.job.spec.teacher_cache is not None]
    parts = [_Part(s, s.num_stored_epochs()) for s in shared_logits(each.job for each in runs)]
    if not parts:
        return
    labels = labels_of([part.shared for part in parts])
    for path in dict.fromkeys(part.shared.path for part in parts):
        here = [part for part in parts if part.shared.path == path]
        yield f"teacher.cache: logits of {_epochs(here)}, in {path}; {_stored(here)}"
    if len(parts) > 1:
        for part, label in zip(parts[:MAX_LINES], labels, strict=False):
            yield f"  {label}: {_epochs([part])}; {_stored([part])}"
        if len(parts) > MAX_LINES:
            yield f"  and {len(parts) - MAX_LINES} more"
    yield _savings(runs, parts, teacher_flops)
    if are_concurrent and any(part.num_missing for part in parts):
        yield CONCURRENT_TEXT
    yield from _warnings(runs, parts)


def concurrent_lines(runs: Sequence[Runs]) -> list[str]:
    """Advice for runs of which some train at the same time; none where all logits are stored.

    Raises:
        OSError: a file of weights cannot be read.
    """
    parts = shared_logits(each.job for each in runs)
    is_filled = all(part.num_stored_epochs() == len(part.epochs) for part in parts)
    return [] if is_filled else [CONCURRENT_TEXT]


def labels_of(parts: Sequence[SharedLogits]) -> list[str]:
    """What tells logits with different keys apart, such as "seed 1"."""
    settings = [{**part.settings, **part.key} for part in parts]
    found = [{each.field: each for each in differences(settings[0], one)} for one in settings]
    first = {name: each.old for one in found for name, each in one.items()}
    names = list(first)[:MAX_LABEL_FIELDS]
    return [
        ", ".join(f"{name} {one[name].new if name in one else first[name]}" for name in names)
        for one in found
    ]


def _epochs(parts: Sequence[_Part]) -> str:
    count = sum(len(part.shared.epochs) for part in parts)
    num_bytes = sum(part.shared.num_bytes for part in parts)
    return f"{count:,} {'epoch' if count == 1 else 'epochs'}, {format_bytes(num_bytes)}"


def _stored(parts: Sequence[_Part]) -> str:
    num_stored = sum(part.num_stored for part in parts)
    num_bytes = sum(
        part.num_stored * part.shared.num_places * part.shared.row_bytes for part in parts
    )
    if num_stored == 0:
        return "nothing is stored yet"
    num_missing = sum(part.num_missing for part in parts)
    text = (
        f"{_count(num_stored)} stored, {format_bytes(num_bytes)}, {_count(num_missing)} to compute"
    )
    if all(part.shared.has_digests for part in parts):
        return text
    return f"{text}, if what is stored is of the same weights, which are in no local file"


def _savings(runs: Sequence[Runs], parts: Sequence[_Part], teacher_flops: TeacherFlops) -> str:
    """Passes of the teacher and their time with what is stored, and without a cache."""
    all_passes = computed = _Passes()
    for each in runs:
        num = each.num_runs * each.job.spec.schedule.num_epochs
        all_passes = all_passes.plus(num, _pass_flops(each, teacher_flops))
    for part in parts:
        first = next(iter(part.shared.epochs.values()))
        computed = computed.plus(part.num_missing, _pass_flops(Runs(first.job), teacher_flops))
    # There may be fewer runs than sets of logits that they choose from.
    computed = min(computed, all_passes)
    spec = runs[0].job.spec
    rate = GPU_FLOPS_PER_S if spec.resources.gpu else matrix_flops_per_s(spec.training.precision)
    num_runs = sum(each.num_runs for each in runs)
    which = "this run" if num_runs == 1 else "all runs, if each trains to its last epoch"
    text = (
        f"it saves {_count(all_passes.num - computed.num)} of {_count(all_passes.num)} "
        f"passes of the teacher over the images in {which}, "
        f"{format_duration((all_passes.flops - computed.flops) / rate)}"
    )
    if num_runs == 1 and computed.num:
        text += f", and up to all in later ones, {format_duration(all_passes.flops / rate)}"
    of = "an assumed" if spec.resources.gpu else "this machine's"
    return f"{text}, of one device with {of} {rate / 1e12:.3g} TFLOP/s"


def _pass_flops(runs: Runs, teacher_flops: TeacherFlops) -> float:
    spec = runs.job.spec
    num_images = num_trained_images(runs.job.train, spec.dataset)
    return float(teacher_flops(spec)) * spec.num_teacher_views * num_images


def _count(number: float) -> str:
    return f"{number:,.1f}".removesuffix(".0")


def _warnings(runs: Sequence[Runs], parts: Sequence[_Part]) -> Iterator[str]:
    """Where the limit, or the disk, has no room for all."""
    limits = {
        each.job.spec.teacher_cache_path: each.job.spec.teacher_cache.limit_bytes
        for each in runs
        if each.job.spec.teacher_cache is not None
    }
    for path, limit_bytes in limits.items():
        here = [part for part in parts if part.shared.path == path]
        num_bytes = sum(part.shared.num_bytes for part in here)
        if limit_bytes is not None and limit_bytes < num_bytes:
            limit = format_bytes(limit_bytes)
            yield f"warning: teacher.cache.limit_bytes is {limit}: not all logits will be stored"
        num_growing = sum(
            part.num_missing * part.shared.num_places * part.shared.row_bytes for part in here
        )
        existing = _existing(path)
        available = num_growing if limit_bytes is None else min(num_growing, limit_bytes)
        if (free := shutil.disk_usage(existing).free) < available:
            free_text = format_bytes(free)
            yield f"warning: {existing} has {free_text} free: not all logits will be stored"


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def matrix_flops_per_s(precision: str) -> float:
    """Operations per second of matrix products on this machine's CPU, a multiply-add as two."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = torch.ones(SIDE, SIDE, dtype=dtype), torch.ones(SIDE, SIDE, dtype=dtype)
    left @ right
    start_s = time.perf_counter()
    for _ in range(NUM_PRODUCTS):
        left @ right
    return NUM_PRODUCTS * 2.0 * SIDE**3 / (time.perf_counter() - start_s)
