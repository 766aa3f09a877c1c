"""How much a comparison stores: what stays, and the checkpoints of the runs that train."""

import torch

from data_pipeline.text import format_bytes
from service.compare.loading import LoadedComparison
from service.compare.tuned_space import tuned_rows
from service.models.build import build_on_meta_device
from service.spec.job import JobSpec
from service.spec.optimization import STATE_TENSORS

# Of an image, in the file of each network's predictions.
PREDICTION_BYTES = 25
PAGE_BYTES = 2_500_000


def disk_line(loaded: LoadedComparison, num_concurrent: int) -> str:
    """Bytes of the files that stay, and of the checkpoints of as many runs as train at a time."""
    compare = loaded.compare
    sizes = {variant: _student_bytes(job.spec) for variant, job in loaded.jobs.items()}
    searches = tuned_rows(compare)
    num_trials = {v: searches[v].budget.trials if v in searches else 0 for v in sizes}
    num_seeds = len(compare.seeds)
    students = sum(size * (num_seeds + num_trials[v]) for v, size in sizes.items())
    num_held_out = 0 if compare.tuned is None else compare.tuned.held_out.num_images
    # In trials, teachers are not evaluated.
    num_predictions = sum(
        (1 + job.spec.uses_teacher) * num_seeds * job.val.num_images
        + num_trials[variant] * num_held_out
        for variant, job in loaded.jobs.items()
    )
    predictions = PREDICTION_BYTES * num_predictions
    largest = max(_checkpoint_bytes(job.spec, sizes[v]) for v, job in loaded.jobs.items())
    waiting = num_seeds * sum(_waiting_bytes(job.spec, sizes[v]) for v, job in loaded.jobs.items())
    total = students + predictions + PAGE_BYTES + num_concurrent * largest + waiting
    more = f", {format_bytes(waiting)} of them students that wait for MLflow" if waiting else ""
    return (
        f"disk: {format_bytes(students)} of students, {format_bytes(predictions)} of predictions, "
        f"about {format_bytes(PAGE_BYTES)} of the page, and {format_bytes(largest)} of checkpoints "
        f"of each run while it trains; at most {format_bytes(total)} with {num_concurrent} at a "
        f"time{more}"
    )


def _student_bytes(spec: JobSpec) -> int:
    model = build_on_meta_device(spec.student.model, spec.dataset.num_classes)
    tensors = model.state_dict().values()
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


def _checkpoint_bytes(spec: JobSpec, student_bytes: int) -> int:
    """Of one run: those that are kept, and the one that is being written."""
    copies = 1 + STATE_TENSORS[spec.optimizer.kind] + (spec.training.ema_decay is not None)
    return student_bytes * copies * (spec.checkpoints.num_to_keep + 1)


def _waiting_bytes(spec: JobSpec, student_bytes: int) -> int:
    """Of one run: tracked checkpoints while MLflow is away, and the one that is being written."""
    tracked = spec.tracked_checkpoints
    return 0 if tracked is None else student_bytes * (tracked.newest + 1)
