"""What a cache of the teacher's logits takes and saves, for the plan of a run."""

import shutil
import time
from collections.abc import Iterator

import torch

from data_pipeline.text import format_bytes
from service.spec.job import JobSpec

# A GPU's rate in networks, of the order of an A100's; no plan can measure the cluster's.
GPU_FLOPS_PER_S = 1e14
NUM_PRODUCTS, SIDE = 4, 1024
SECONDS_PER_HOUR = 3600.0


def cache_lines(spec: JobSpec, num_images: int, flops_per_image: int) -> Iterator[str]:
    """Lines about bytes and hours for a person; none without a cache.

    Args:
        spec: of the run.
        num_images: of an epoch.
        flops_per_image: of all networks of the teacher.
    """
    cache = spec.teacher_cache
    if cache is None:
        return
    epochs = range(spec.schedule.num_epochs)
    stored = {(spec.draw_epoch(epoch), spec.augmentation.size_at(epoch)) for epoch in epochs}
    row_bytes = cache.row_bytes(spec.dataset.num_classes, spec.num_teacher_views)
    num_bytes = len(stored) * num_images * row_bytes
    path = spec.teacher_cache_path
    count = "1 epoch" if len(stored) == 1 else f"{len(stored)} epochs"
    yield f"teacher.cache: logits of {count}, {format_bytes(num_bytes)}, in {path}"
    rate = GPU_FLOPS_PER_S if spec.resources.gpu else matrix_flops_per_s(spec.training.precision)
    flops = flops_per_image * spec.num_teacher_views * num_images
    epoch_h = flops / rate / SECONDS_PER_HOUR
    num_saved = len(epochs) - len(stored)
    of = "an assumed" if spec.resources.gpu else "this machine's"
    yield (
        f"it saves {num_saved} of {len(epochs)} passes of the teacher over the images in this run, "
        f"{num_saved * epoch_h:.3g} h, and up to all in later ones, {len(epochs) * epoch_h:.3g} h, "
        f"of one device with {of} {rate / 1e12:.3g} TFLOP/s"
    )
    if cache.limit_bytes is not None and cache.limit_bytes < num_bytes:
        limit = format_bytes(cache.limit_bytes)
        yield f"warning: teacher.cache.limit_bytes is {limit}: not all logits will be stored"
    available = num_bytes if cache.limit_bytes is None else min(num_bytes, cache.limit_bytes)
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if (free := shutil.disk_usage(existing).free) < available:
        yield f"warning: {existing} has {format_bytes(free)} free: not all logits will be stored"


def matrix_flops_per_s(precision: str) -> float:
    """Operations per second of matrix products on this machine's CPU, a multiply-add as two."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = torch.ones(SIDE, SIDE, dtype=dtype), torch.ones(SIDE, SIDE, dtype=dtype)
    left @ right
    start_s = time.perf_counter()
    for _ in range(NUM_PRODUCTS):
        left @ right
    return NUM_PRODUCTS * 2.0 * SIDE**3 / (time.perf_counter() - start_s)
