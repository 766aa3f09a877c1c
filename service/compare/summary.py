"""What follows from the runs of each variant: calibration, agreement, classes gained, and cost."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.compare.records import RunRecord, VariantResult
from service.pages.reliability import diagram_of
from service.run.predictions import (
    Predictions,
    Reliability,
    agreement,
    class_accuracies,
)


class VariantSummary(NamedTuple):
    """A variant of one pair with its runs, and what the finished ones of these have in common.

    ``runs``: in all states, by seed. By seed of a finished run: ``calibration_errors``, ECE on val,
    0 to 1; ``agreements``, share of the images, 0 to 1, for which the student predicts the class
    that its teacher predicts; ``images_per_s``; ``peak_memory_bytes``. A seed is absent where its
    run does not tell. ``student_reliability``, ``teacher_reliability``: of the images of all seeds
    together. ``class_gains``: accuracy by class minus the base's, mean over the seeds that both
    have, [K]; NaN for a class without images. None where it is not known, and for the base itself.
    """

    result: VariantResult
    runs: tuple[RunRecord, ...]
    calibration_errors: Mapping[int, float]
    agreements: Mapping[int, float]
    images_per_s: Mapping[int, float]
    peak_memory_bytes: Mapping[int, float]
    student_reliability: Reliability | None
    teacher_reliability: Reliability | None
    class_gains: NDArray[np.float64] | None

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.result.variant

    @property
    def typical_peak_bytes(self) -> float | None:
        """Median of the runs' peak memory; the first run of a process also pays what all share."""
        return float(np.median([*peaks])) if (peaks := self.peak_memory_bytes.values()) else None


def summarize(
    records: Sequence[RunRecord], results: Sequence[VariantResult], num_classes: int
) -> list[VariantSummary]:
    """A summary of each result, in their order."""
    bases = {
        result.pair: _students(_finished(_runs(records, result)))
        for result in results
        if result.is_base
    }
    return [
        _summary(result, _runs(records, result), bases.get(result.pair, {}), num_classes)
        for result in results
    ]


def _summary(
    result: VariantResult,
    runs: tuple[RunRecord, ...],
    base_students: Mapping[int, Predictions],
    num_classes: int,
) -> VariantSummary:
    finished = _finished(runs)
    students = _students(finished)
    diagrams = {
        run.seed: diagram for run in finished if (diagram := diagram_of(run.student)) is not None
    }
    teachers = [diagram for run in finished if (diagram := diagram_of(run.teacher)) is not None]
    gains = None if result.is_base else class_gains(students, base_students, num_classes)
    return VariantSummary(
        result,
        runs,
        {seed: diagram.calibration_error for seed, diagram in diagrams.items()},
        _by_seed(finished, _agreement),
        _by_seed(finished, lambda run: run.images_per_s),
        _by_seed(finished, lambda run: run.peak_memory_bytes),
        pooled([*diagrams.values()]),
        pooled(teachers),
        gains,
    )


def mean(values: Mapping[int, float]) -> float | None:
    """The mean over the seeds; None without one."""
    return float(np.mean([*values.values()])) if values else None


def deviation(values: Mapping[int, float]) -> float | None:
    """The standard deviation of the sample of seeds; None with fewer than two."""
    return float(np.std([*values.values()], ddof=1)) if len(values) > 1 else None


def pooled(diagrams: Sequence[Reliability]) -> Reliability | None:
    """The reliability diagram of the images of several diagrams together; None without one."""
    if not diagrams:
        return None
    counts = np.sum([diagram.counts for diagram in diagrams], axis=0)
    # The mean of an empty bin is NaN, and so is its product with the count.
    num_right = np.nansum([diagram.counts * diagram.accuracies for diagram in diagrams], axis=0)
    confidence = np.nansum([diagram.counts * diagram.confidences for diagram in diagrams], axis=0)
    with np.errstate(invalid="ignore"):
        return Reliability(counts, num_right / counts, confidence / counts)


def class_gains(
    of_variant: Mapping[int, Predictions], of_base: Mapping[int, Predictions], num_classes: int
) -> NDArray[np.float64] | None:
    """Accuracy by class of a variant minus the base's, [K]: mean over the seeds that both have.

    NaN for a class without images; None without a seed that both have.
    """
    seeds = of_variant.keys() & of_base.keys()
    if not seeds:
        return None
    gains = [
        class_accuracies(of_variant[seed], num_classes)
        - class_accuracies(of_base[seed], num_classes)
        for seed in seeds
    ]
    return np.asarray(np.mean(gains, axis=0), np.float64)


def _runs(records: Sequence[RunRecord], result: VariantResult) -> tuple[RunRecord, ...]:
    own = [run for run in records if (run.pair, run.variant) == (result.pair, result.variant)]
    return tuple(sorted(own, key=lambda run: run.seed))


def _finished(runs: Sequence[RunRecord]) -> list[RunRecord]:
    return [run for run in runs if run.state == "finished"]


def _students(runs: Sequence[RunRecord]) -> dict[int, Predictions]:
    return {run.seed: run.student for run in runs if run.student is not None}


def _agreement(run: RunRecord) -> float | None:
    if run.student is None or run.teacher is None:
        return None
    return agreement(run.student, run.teacher)


def _by_seed(
    runs: Sequence[RunRecord], value_of: Callable[[RunRecord], float | None]
) -> dict[int, float]:
    """The finite values, by seed."""
    values = {run.seed: value_of(run) for run in runs}
    return {s: value for s, value in values.items() if value is not None and math.isfinite(value)}
