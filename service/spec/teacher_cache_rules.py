"""Rules about the cache of the teacher's logits: what it stores is enough, and it has room."""

from collections import Counter
from collections.abc import Iterator

from data_pipeline.facts import DatasetFacts
from service.spec.data_sections import Augmentation, Dataset
from service.spec.errors import Problem
from service.spec.losses import Losses
from service.spec.optimization import Schedule
from service.spec.paths import output_problem
from service.spec.teacher_cache import Draw, TopLogits
from service.spec.teacher_sections import Teacher


def check_teacher_cache(
    teacher: Teacher | None, dataset: Dataset, losses: Losses | None, schedule: Schedule
) -> Iterator[Problem]:
    """Enough logits for every loss, and no more epochs than the run has."""
    cache = teacher.cache if teacher is not None else None
    if cache is None:
        return
    if cache.path is not None and (problem := output_problem("teacher.cache.path", cache.path)):
        yield problem
    if cache.epochs is not None and cache.epochs > schedule.num_epochs:
        yield Problem(
            "teacher.cache.epochs",
            f"is {cache.epochs}, but schedule.num_epochs is {schedule.num_epochs}",
            "use less than that, or leave it out: then no epoch is repeated",
        )
    if isinstance(cache.keep, TopLogits):
        yield from _top_k_problems(cache.keep.top_k, dataset, losses)


def _top_k_problems(top_k: int, dataset: Dataset, losses: Losses | None) -> Iterator[Problem]:
    if top_k >= dataset.num_classes:
        yield Problem(
            "teacher.cache.keep.top_k",
            f"is {top_k}, but dataset.num_classes is {dataset.num_classes}",
            'use less than that, or "keep": "float16"',
        )
    # The default losses read the largest logit and predictions.
    for name, section in losses.active.items() if losses is not None else ():
        if section.needs_all_logits:
            yield Problem(
                "teacher.cache.keep",
                f"has {top_k} logits of each image, but losses.{name} needs all",
                'use "keep": "float16", or leave out the loss',
            )


def check_cache_limit(
    train: DatasetFacts,
    dataset: Dataset,
    teacher: Teacher | None,
    losses: Losses | None,
    schedule: Schedule,
    augmentation: Augmentation,
) -> Iterator[Problem]:
    """Room for one epoch, or for all that a run repeats.

    What is stored for images of another size may be removed: only epochs of one size are repeated.
    """
    cache = teacher.cache if teacher is not None else None
    if cache is None or cache.limit_bytes is None:
        return
    has_two_views = losses is not None and losses.compares_strong_view
    row_bytes = cache.row_bytes(dataset.num_classes, 2 if has_two_views else 1)
    num_epochs = 1
    if cache.epochs is not None:
        draws = {
            Draw(cache.draw_epoch(epoch), augmentation.size_at(epoch))
            for epoch in range(schedule.num_epochs)
        }
        num_epochs = max(Counter(draw.size for draw in draws).values())
    needed_bytes = num_epochs * num_trained_images(train, dataset) * row_bytes
    if cache.limit_bytes < needed_bytes:
        epochs = "an epoch" if num_epochs == 1 else f"{num_epochs} epochs"
        yield Problem(
            "teacher.cache.limit_bytes",
            f"is {cache.limit_bytes:,}, but the logits of {epochs} have {needed_bytes:,} bytes",
            "make it at least that, store fewer logits or epochs, or leave it out",
        )


def num_trained_images(train: DatasetFacts, dataset: Dataset) -> int:
    """Images of an epoch: those of train that are not held out."""
    held_out = dataset.held_out
    return train.num_images - (held_out.num_images if held_out is not None else 0)
