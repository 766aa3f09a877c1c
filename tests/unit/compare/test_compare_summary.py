import math

import numpy as np
import pytest
from support.comparison_records import make_predictions, make_results, make_runs

from service.compare.records import RunRecord, VariantResult
from service.compare.summary import class_gains, deviation, mean, pooled, summarize
from service.run.predictions import INVALID, Predictions, reliability

NUM_CLASSES = 3


def predicted(labels, classes, confidences=None):
    """Predictions of a few images, by hand."""
    count = len(labels)
    return Predictions(
        samples=np.arange(count),
        labels=np.array(labels, np.int32),
        predicted=np.array(classes, np.int32),
        confidences=np.array([0.9] * count if confidences is None else confidences, np.float32),
        in_top5=np.ones(count, bool),
        losses=np.zeros(count, np.float32),
    )


def run_of(variant, seed, student=None, teacher=None, **others):
    fields = {"state": "finished", "num_epochs": 2, **others}
    return RunRecord("", variant, seed, student=student, teacher=teacher, **fields)


def result_of(variant, is_base=False, pair=""):
    return VariantResult(pair, variant, is_base, {}, *[None] * 7, "")


def summary_of(*runs):
    (summary,) = summarize(runs, [result_of("kd")], NUM_CLASSES)
    return summary


def test_calibration_error_is_that_of_guo_by_seed():
    # Confidence 0.9: 3 of 4 are right. Confidence 0.5: 1 of 2. ECE = 4/6 * 0.15 + 2/6 * 0.0.
    confidences = [0.9] * 4 + [0.5] * 2
    first = predicted([0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 1, 0], confidences)
    # All of confidence 0.9 and right.
    second = predicted([0, 1], [0, 1])
    summary = summary_of(run_of("kd", 0, first), run_of("kd", 7, second))
    assert summary.calibration_errors == {0: pytest.approx(0.1), 7: pytest.approx(0.1)}
    assert mean(summary.calibration_errors) == pytest.approx(0.1)
    assert deviation(summary.calibration_errors) == pytest.approx(0.0, abs=1e-7)


def test_deviation_is_that_of_the_sample():
    assert deviation({0: 1.0, 1: 2.0, 5: 4.0}) == pytest.approx(math.sqrt(7 / 3))
    assert deviation({3: 1.0}) is None
    assert mean({}) is None


def test_agreement_compares_the_predicted_classes():
    student = predicted([0, 1, 2, 0], [0, 2, 2, 1])
    teacher = predicted([0, 1, 2, 0], [0, 2, 1, 1])
    assert summary_of(run_of("kd", 4, student, teacher)).agreements == {4: 0.75}
    assert summary_of(run_of("kd", 4, student)).agreements == {}


def test_pooled_diagram_is_that_of_all_images_together():
    rng = np.random.default_rng(0)
    parts = [make_predictions(accuracy, rng) for accuracy in (0.5, 0.7, 0.9)]
    joined = Predictions(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    expected = reliability(joined)
    found = pooled([reliability(part) for part in parts])
    assert found.counts.tolist() == expected.counts.tolist()
    np.testing.assert_allclose(found.accuracies, expected.accuracies, rtol=1e-12)
    np.testing.assert_allclose(found.confidences, expected.confidences, rtol=1e-12)
    assert np.isnan(found.accuracies[found.counts == 0]).all()
    assert pooled([]) is None


def test_class_gains_are_means_over_the_seeds_that_both_have():
    labels = [0, 0, 1, 1]
    of_base = {0: predicted(labels, [0, 1, 1, 1]), 1: predicted(labels, [1, 1, 1, 0])}
    of_variant = {
        0: predicted(labels, [0, 0, 1, 0]),  # class 0: 1.0 - 0.5; class 1: 0.5 - 1.0
        1: predicted(labels, [0, 0, 1, 0]),  # class 0: 1.0 - 0.0; class 1: 0.5 - 0.5
        2: predicted(labels, [2, 2, 2, 2]),
    }
    gains = class_gains(of_variant, of_base, NUM_CLASSES)
    assert gains[:2].tolist() == [0.75, -0.25]
    assert math.isnan(gains[2])
    assert class_gains(of_variant, {5: of_base[0]}, NUM_CLASSES) is None


def test_gains_are_those_over_the_base_of_the_same_pair():
    runs = make_runs(["base", "kd"], range(2), pairs=("a", "b"), num_classes=5)
    results = make_results(runs, ["base", "kd"], ("a", "b"))
    summaries = summarize(runs, results, 5)
    assert [(s.result.pair, s.name) for s in summaries] == [
        ("a", "base"),
        ("a", "kd"),
        ("b", "base"),
        ("b", "kd"),
    ]
    right = {
        (run.pair, run.variant, run.seed): np.array(
            [np.mean(run.student.predicted[run.student.labels == k] == k) for k in range(5)]
        )
        for run in runs
    }
    for base, variant in (summaries[:2], summaries[2:]):
        pair = base.result.pair
        expected = [right[pair, "kd", seed] - right[pair, "base", seed] for seed in range(2)]
        np.testing.assert_allclose(variant.class_gains, np.mean(expected, axis=0), atol=1e-12)
        assert base.class_gains is None


def test_only_finished_runs_count():
    student = predicted([0, 1], [0, 1])
    others = {"images_per_s": 100.0, "peak_memory_bytes": 5.0}
    finished = run_of("kd", 1, student, student, **others)
    failed = run_of("kd", 0, student, student, **others)._replace(state="failed")
    summary = summary_of(failed, finished)
    for values in (summary.calibration_errors, summary.agreements):
        assert [*values] == [1]
    assert summary.images_per_s == {1: 100.0}
    assert summary.peak_memory_bytes == {1: 5.0}
    assert summary.student_reliability.counts.sum() == 2
    assert [run.seed for run in summary.runs] == [0, 1]


def test_what_runs_do_not_tell_is_absent():
    images = predicted([0, 1], [INVALID, INVALID], [math.nan, math.nan])
    runs = [
        run_of("kd", 0),
        run_of("kd", 1, images, images, images_per_s=math.nan),
        run_of("kd", 2, predicted([], []), predicted([], [])),
    ]
    summary = summary_of(*runs)
    assert summary.calibration_errors == summary.images_per_s == {}
    assert summary.peak_memory_bytes == {}
    assert summary.agreements == {1: 0.0}
    assert summary.student_reliability is summary.teacher_reliability is None
    assert summary.class_gains is None


def test_the_first_run_of_a_process_does_not_decide_the_peak_memory():
    peaks = (19.0, 6.0, 7.0)
    runs = [run_of("kd", seed, peak_memory_bytes=peak) for seed, peak in enumerate(peaks)]
    assert summary_of(*runs).typical_peak_bytes == 7.0
    assert summary_of(run_of("kd", 0)).typical_peak_bytes is None
