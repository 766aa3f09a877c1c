"""The statistics of a comparison: differences paired by seed, their tests, and Holm's correction.

Runs with one seed see the same images in the same order, so a variant is compared with the base
seed by seed: what a seed does to both cancels out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from service.compare.records import RunRecord, VariantResult
from service.compare.spec import CompareSpec, Variant

SIGNIFICANCE = 0.05
# Accuracies are shares of images: closer ones differ by rounding only.
ROUNDING = 1e-12

BASE_VERDICT = "the base"
BETTER, WORSE = "better than the base", "WORSE than the base"
NOISE, MORE_SEEDS = "no more than noise", "more seeds needed"


class HolmStep(NamedTuple):
    """One comparison after Holm's correction.

    ``p_holm``: p-value corrected for the number of comparisons. ``level``: what the p-value was
    compared with, and so 1 minus the confidence of the interval that belongs to the verdict.
    """

    p_holm: float
    level: float
    is_rejected: bool


def compare_variants(compare: CompareSpec, records: Sequence[RunRecord]) -> list[VariantResult]:
    """The result of every row, in the rows' order; runs that have not finished do not count."""
    finished = {
        variant: [r for r in records if (r.pair, r.variant) == variant and r.last_top1 is not None]
        for variant in compare.rows()
    }
    top1 = {v: {r.seed: _known(r.last_top1) for r in found} for v, found in finished.items()}
    differences = {
        variant: _paired(top1[variant], top1[Variant(variant.pair, compare.base_label)])
        for variant in compare.rows()
        if not compare.is_base(variant)
    }
    p_values = {variant: paired_p_value(found) for variant, found in differences.items()}
    steps = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    results = []
    for variant in compare.rows():
        result = _own_result(variant, top1[variant], finished[variant])
        if not compare.is_base(variant):
            found, step = differences[variant], steps[variant]
            result = result._replace(
                is_base=False,
                difference=float(np.mean(found)) if found else None,
                interval=None if step is None else paired_interval(found, step.level),
                p_value=p_values[variant],
                p_holm=None if step is None else step.p_holm,
                verdict=_verdict(found, step),
            )
        results.append(result)
    return results


def _known(value: float | None) -> float:
    assert value is not None, "the run has finished"
    return value


def _paired(values: Mapping[int, float], others: Mapping[int, float]) -> list[float]:
    """Differences with the seeds that both have."""
    return [values[seed] - others[seed] for seed in values if seed in others]


def _own_result(
    variant: Variant, top1: Mapping[int, float], finished: Sequence[RunRecord]
) -> VariantResult:
    """What is known of a row by itself, which is all for the base."""
    values = list(top1.values())
    best = [record.best_top1 for record in finished if record.best_top1 is not None]
    return VariantResult(
        pair=variant.pair,
        variant=variant.name,
        is_base=True,
        top1=top1,
        mean=float(np.mean(values)) if values else None,
        deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        best_mean=float(np.mean(best)) if best else None,
        difference=None,
        interval=None,
        p_value=None,
        p_holm=None,
        verdict=BASE_VERDICT,
    )


def _verdict(differences: Sequence[float], step: HolmStep | None) -> str:
    if step is None:
        return MORE_SEEDS
    if not step.is_rejected:
        return NOISE
    return BETTER if np.mean(differences) > 0 else WORSE


def paired_p_value(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of the paired t-test that the mean difference is 0.

    None for fewer than two differences, or if they do not vary: the test says nothing then.
    """
    if len(differences) < 2 or np.ptp(differences) <= ROUNDING:
        return None
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def paired_interval(differences: Sequence[float], level: float) -> tuple[float, float]:
    """Confidence interval of the mean difference, at the confidence 1 - ``level``.

    It is that of Student's t distribution, for at least two differences.
    """
    count = len(differences)
    assert count > 1, "one difference has no interval"
    error = float(np.std(differences, ddof=1)) / math.sqrt(count)
    reach = float(stats.t.ppf(1 - level / 2, count - 1)) * error
    mean = float(np.mean(differences))
    return mean - reach, mean + reach


def holm(
    p_values: Sequence[float | None], significance: float = SIGNIFICANCE
) -> list[HolmStep | None]:
    """Holm's step-down correction; None where there is no p-value, which counts as one of 1.

    From the smallest p-value on, the k-th of m is compared with significance / (m - k + 1), until
    one is not below. That and all larger ones are not rejected; their level is that of this step,
    so that an interval at a comparison's level excludes 0 exactly if it is rejected.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of
    Statistics 6 (1979).
    """
    known = [(p, index) for index, p in enumerate(p_values) if p is not None]
    steps: list[HolmStep | None] = [None] * len(p_values)
    p_holm, level, has_stopped = 0.0, significance, False
    for rank, (p_value, index) in enumerate(sorted(known)):
        num_left = len(p_values) - rank
        p_holm = max(p_holm, min(1.0, num_left * p_value))
        if not has_stopped:
            level = significance / num_left
            has_stopped = p_value >= level
        steps[index] = HolmStep(p_holm, level, not has_stopped)
    return steps
