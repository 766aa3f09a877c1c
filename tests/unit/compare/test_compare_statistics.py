import math

import numpy as np
import pytest
from scipy import stats

from service.compare.loading import parse_comparison
from service.compare.records import RunRecord
from service.compare.statistics import compare_variants, holm, paired_interval, paired_p_value

BASE = [0.70, 0.72, 0.71, 0.69]
BETTER = [0.76, 0.77, 0.77, 0.75]
LIKE = [0.71, 0.71, 0.72, 0.69]


def test_paired_t_test_is_that_of_two_samples_and_of_the_closed_form():
    differences = np.array(BETTER) - np.array(BASE)
    p_value = paired_p_value(differences)
    assert p_value == pytest.approx(stats.ttest_rel(BETTER, BASE).pvalue, rel=1e-9)
    error = differences.std(ddof=1) / math.sqrt(4)
    assert p_value == pytest.approx(2 * stats.t.sf(differences.mean() / error, 3), rel=1e-9)
    reach = stats.t.ppf(0.995, 3) * error
    expected = (differences.mean() - reach, differences.mean() + reach)
    assert paired_interval(differences, 0.01) == pytest.approx(expected)


@pytest.mark.parametrize("differences", [[], [0.1], [0.0, 0.0], [0.85 - 0.75, 0.8 - 0.7]])
def test_no_p_value_without_variance(differences):
    assert paired_p_value(differences) is None


def test_holm_by_hand():
    """Four comparisons: 0.005 < 0.05 / 4, 0.01 < 0.05 / 3, but 0.03 > 0.05 / 2; the rest stays."""
    steps = holm([0.01, 0.04, 0.03, 0.005])
    assert [step.p_holm for step in steps] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [step.level for step in steps] == pytest.approx([0.05 / 3, 0.025, 0.025, 0.0125])
    assert [step.is_rejected for step in steps] == [True, False, False, True]


def test_comparison_without_a_p_value_counts_as_one_that_is_not_rejected():
    assert holm([None, 0.02, None]) == [None, *holm([0.02, 1.0, 1.0])[:1], None]
    assert holm([None]) == [None]
    assert holm([]) == []


def test_corrected_p_values_are_at_most_one_and_in_the_order_of_the_others():
    p_values = [0.9, 0.4, 0.6, 0.8]
    corrected = [step.p_holm for step in holm(p_values)]
    assert corrected == [1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("seed", range(5))
def test_interval_excludes_zero_exactly_for_rejected_differences(seed):
    generator = np.random.default_rng(seed)
    means = generator.choice([0, 0.5, 2, 6], 12)
    samples = [generator.normal(mean, 1, 5) for mean in means]
    steps = holm([paired_p_value(sample) for sample in samples])
    assert any(step.is_rejected for step in steps)
    assert not all(step.is_rejected for step in steps)
    for sample, step in zip(samples, steps, strict=True):
        low, high = paired_interval(sample, step.level)
        assert (low > 0 or high < 0) == step.is_rejected


@pytest.fixture
def compare(make_compare_content):
    variants = {name: {"losses.ce.weight": w} for name, w in (("good", 2), ("like", 3))}
    return parse_comparison(make_compare_content(variants=variants, seeds=[0, 1, 2, 3])).compare


def records_of(**top1):
    return [
        RunRecord("", variant, seed, "finished", 9, last_top1=value, best_top1=value + 0.01)
        if value is not None
        else RunRecord("", variant, seed, "failed", 9)
        for variant, values in top1.items()
        for seed, value in enumerate(values)
    ]


def test_results_of_rows(compare):
    base, good, like = compare_variants(compare, records_of(base=BASE, good=BETTER, like=LIKE))
    assert (base.mean, base.best_mean) == pytest.approx((0.705, 0.715))
    assert base.deviation == pytest.approx(np.std(BASE, ddof=1))
    assert (base.is_base, base.difference, base.p_value, base.verdict) == (
        True,
        None,
        None,
        "the base",
    )
    assert good.difference == pytest.approx(0.0575)
    assert good.p_value == pytest.approx(stats.ttest_rel(BETTER, BASE).pvalue)
    assert good.p_holm == pytest.approx(2 * good.p_value)
    assert (good.verdict, like.verdict) == ("better than the base", "no more than noise")
    assert like.p_holm == pytest.approx(like.p_value)
    # The step at which Holm stopped is the last of two: like has the level 5 %.
    found = stats.ttest_rel(LIKE, BASE).confidence_interval(0.95)
    assert like.interval == pytest.approx((found.low, found.high))
    found = stats.ttest_rel(BETTER, BASE).confidence_interval(0.975)
    assert good.interval == pytest.approx((found.low, found.high))


def test_only_seeds_that_both_have_are_compared(compare):
    records = records_of(
        base=[0.7, None, 0.72, 0.5], good=[0.6, 0.9, 0.61, None], like=[None, 0.7, None, None]
    )
    base, good, like = compare_variants(compare, records)
    assert base.top1 == {0: 0.7, 2: 0.72, 3: 0.5}
    assert good.mean == pytest.approx((0.6 + 0.9 + 0.61) / 3)
    assert good.difference == pytest.approx((-0.1 - 0.11) / 2)
    assert good.p_value == pytest.approx(stats.ttest_rel([0.6, 0.61], [0.7, 0.72]).pvalue)
    assert (like.mean, like.deviation, like.difference, like.interval) == (0.7, None, None, None)
    assert like.verdict == "more seeds needed"


def test_worse_and_equal_variants(compare):
    like = [value + 0.125 for value in (0.25, 0.375, 0.5, 0.625)]
    records = records_of(base=[0.25, 0.375, 0.5, 0.625], good=[0.1, 0.22, 0.36, 0.47], like=like)
    _, worse, equal = compare_variants(compare, records)
    assert worse.verdict == "WORSE than the base"
    assert (equal.difference, equal.interval, equal.p_value) == (0.125, None, None)
    assert equal.verdict == "more seeds needed"


def test_nothing_is_known_before_a_run_has_finished(compare):
    results = compare_variants(compare, [])
    assert {(r.mean, r.deviation, r.best_mean, r.difference) for r in results} == {(None,) * 4}


def test_each_pair_has_its_own_base_and_all_pairs_share_the_correction(make_compare_content):
    pairs = {"a": {"student.model": "cifar:tiny_cnn"}, "b": {"student.model": "cifar:small_cnn"}}
    content = make_compare_content(variants={"good": {"losses.ce.weight": 2}}, pairs=pairs)
    compare = parse_comparison(content).compare
    records = [
        record._replace(pair=pair)
        for pair, shift in (("a", 0.0), ("b", -0.3))
        for record in records_of(
            base=[value + shift for value in BASE], good=[value + shift for value in BETTER]
        )
    ]
    _, in_a, _, in_b = compare_variants(compare, records)
    assert (in_a.pair, in_b.pair) == ("a", "b")
    assert in_a.difference == pytest.approx(in_b.difference) == pytest.approx(0.0575)
    assert in_a.p_value == pytest.approx(in_b.p_value)
    assert min(in_a.p_holm, in_b.p_holm) == pytest.approx(2 * in_a.p_value)
