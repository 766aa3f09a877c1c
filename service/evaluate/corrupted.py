"""Accuracy on corrupted images: every kind and strength of ``corruptions`` in one pass over a file.

A batch is decoded once, then corrupted on threads in each way and classified.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from statistics import fmean

import torch

from data_pipeline.batches import Batch
from service.evaluate.corruptions import CORRUPTIONS, STRENGTHS, corrupted
from service.evaluate.report import CorruptedAccuracy
from service.evaluate.statistics import wilson_interval
from service.training.evaluation import Classifier, is_among_best


@torch.inference_mode()
def corrupted_accuracies(
    classify: Classifier,
    batches: Iterable[Batch],
    *,
    seed: int,
    num_threads: int,
) -> list[CorruptedAccuracy]:
    """Top-1 for each kind and strength, in the order of CORRUPTIONS and STRENGTHS.

    Besides a batch, as many corrupted copies of it as there are strengths are in memory at a time.

    Args:
        classify: uint8 pixels [B, S, S, 3] on the CPU to logits [B, K], on any device.
        batches: center crops, every image once; at least one.
        seed: of the noise.
        num_threads: that corrupt images; the result does not depend on it.
    """
    num_right: Counter[tuple[str, int]] = Counter()
    num_images = 0
    with ThreadPoolExecutor(num_threads, thread_name_prefix="corrupt") as pool:
        for batch in batches:
            num_images += len(batch.labels)
            for kind in CORRUPTIONS:
                copy = partial(corrupted, batch.images, kind, samples=batch.indices, seed=seed)
                for strength, pixels in zip(STRENGTHS, pool.map(copy, STRENGTHS), strict=True):
                    logits = classify(pixels)
                    are_right = is_among_best(logits, batch.labels.to(logits.device), 1)
                    num_right[kind, strength] += int(are_right.sum())
    assert num_images, "a file has images"
    return [
        CorruptedAccuracy(kind, strength, wilson_interval(num_right[kind, strength], num_images))
        for kind, strength in product(CORRUPTIONS, STRENGTHS)
    ]


def mean_corrupted_top1(accuracies: Sequence[CorruptedAccuracy]) -> float:
    """Mean over all kinds and strengths, each of equal weight, 0 to 1."""
    return fmean(accuracy.top1.value for accuracy in accuracies)


def corruption_rows(
    accuracies: Sequence[CorruptedAccuracy], clean_top1: float
) -> list[dict[str, str]]:
    """Texts by column, in percent: a row for each kind and one for the means of all.

    The columns are the strengths, their mean, and the mean in percent of the clean accuracy, which
    is empty where that is 0.
    """
    kinds = dict.fromkeys(accuracy.kind for accuracy in accuracies)
    return [
        _row(kind, [each for each in accuracies if each.kind == kind], clean_top1) for kind in kinds
    ] + [_row("all", accuracies, clean_top1)]


def _row(label: str, chosen: Sequence[CorruptedAccuracy], clean_top1: float) -> dict[str, str]:
    strengths = sorted({accuracy.strength for accuracy in chosen})
    means = {
        strength: mean_corrupted_top1([each for each in chosen if each.strength == strength])
        for strength in strengths
    }
    mean = mean_corrupted_top1(chosen)
    relative = f"{100 * mean / clean_top1:.1f}" if clean_top1 else ""
    columns = {f"strength {strength}": f"{100 * value:.2f}" for strength, value in means.items()}
    return {"corruption": label, **columns, "mean": f"{100 * mean:.2f}", "% of clean": relative}
