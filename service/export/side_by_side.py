"""int8 beside float32: top-1 on the same images, latency and size of both ONNX files."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.evaluate.statistics import wilson_interval
from service.export.comparison import BATCH_SIZES, Classifier, Floats, in_batches
from service.export.options import FailedCheckError

LATENCY_BATCH_SIZES = (1, 32)
NUM_WARM_UPS, MIN_PASSES, MEASURED_S = 2, 5, 1.0


class LatencyPair(NamedTuple):
    """Medians of a pass of both files, in seconds."""

    batch_size: int
    float32_s: float
    int8_s: float


class AccuracyPair(NamedTuple):
    """Top-1 of both files, shares of the same images; ``same``: share with equal predictions."""

    num_images: int
    float32: float
    int8: float
    same: float

    @property
    def drop_points(self) -> float:
        """By how many points of top-1 int8 is worse than float32."""
        return 100 * (self.float32 - self.int8)

    def interval(self, top1: float) -> str:
        """Wilson's of one of the two, in percent."""
        found = wilson_interval(round(top1 * self.num_images), self.num_images)
        return f"{100 * found.low:.1f} to {100 * found.high:.1f} %"


def compare_accuracy(
    float32: Classifier,
    int8: Classifier,
    batches: Iterable[tuple[Floats, NDArray[np.int64]]],
    indices: Sequence[int] | None,
) -> AccuracyPair:
    """Top-1 of both on all images, in batches of [B, 3, H, W] and labels [B].

    ``indices``: of the logits of the labels' classes, in their order; None for all. Logits that are
    not finite count as wrong.
    """
    correct, same, count = np.zeros(2, np.int64), 0, 0
    for images, labels in batches:
        logits = [classify(images) for classify in (float32, int8)]
        if indices is not None:
            logits = [each[:, indices] for each in logits]
        predictions = [_predicted(each) for each in logits]
        correct += [int((predicted == labels).sum()) for predicted in predictions]
        same += int((predictions[0] == predictions[1]).sum())
        count += len(labels)
    float32_top1, int8_top1 = (correct / count).tolist()
    return AccuracyPair(count, float32_top1, int8_top1, same / count)


def check_batch_sizes(int8: Classifier, images: Floats) -> None:
    """Check that int8 takes batches of all sizes; what it predicts is measured by accuracy.

    Raises:
        FailedCheckError: a logit is not finite.
    """
    for batch_size in BATCH_SIZES:
        if not np.isfinite(in_batches(int8, images, batch_size)).all():
            wrong = f"is int8, and its logits are not finite in batches of {batch_size}"
            raise FailedCheckError("--format", wrong, "use onnx, which is float32")


def compare_latency(float32: Classifier, int8: Classifier, images: Floats) -> list[LatencyPair]:
    """Latencies for batches of ``images`` [N, 3, H, W], which are repeated as needed.

    Passes of both alternate, so that what else the machine does slows down both.
    """
    pairs = []
    for size in LATENCY_BATCH_SIZES:
        batch = np.resize(images, (size, *images.shape[1:]))
        pairs.append(LatencyPair(size, *_median_s((float32, int8), batch)))
    return pairs


def _median_s(classifiers: Sequence[Classifier], images: Floats) -> list[float]:
    passes: list[list[float]] = []
    end_s = time.perf_counter() + MEASURED_S
    while len(passes) < NUM_WARM_UPS + MIN_PASSES or time.perf_counter() < end_s:
        passes.append([_pass_s(classify, images) for classify in classifiers])
    return np.median(passes[NUM_WARM_UPS:], axis=0).tolist()


def _pass_s(classify: Classifier, images: Floats) -> float:
    start_s = time.perf_counter()
    classify(images)
    return time.perf_counter() - start_s


def _predicted(logits: Floats) -> NDArray[np.int64]:
    """The class of each row [B]; -1 where a logit is not finite."""
    return np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1)


def format_side_by_side(
    accuracies: AccuracyPair, latencies: Sequence[LatencyPair], float32_path: Path, int8_path: Path
) -> str:
    """A table of both, in lines."""
    sizes = [path.stat().st_size / 1e6 for path in (float32_path, int8_path)]
    rows = [
        ("", "float32", "int8"),
        ("top-1", f"{100 * accuracies.float32:.2f} %", f"{100 * accuracies.int8:.2f} %"),
        ("95 % interval", *map(accuracies.interval, (accuracies.float32, accuracies.int8))),
        *(
            (f"batch of {n}", f"{1000 * first:.2f} ms", f"{1000 * second:.2f} ms")
            for n, first, second in latencies
        ),
        ("file", *(f"{size:.2f} MB" for size in sizes)),
    ]
    return "\n".join(f"{name:<14}{first:>18}{second:>18}" for name, first, second in rows)
