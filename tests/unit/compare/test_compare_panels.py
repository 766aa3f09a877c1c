import math

import numpy as np
import pytest
from support.comparison_records import make_results, make_runs
from support.sweep_records import ATTACK

from service.compare.panels import learning_curves, reliability_panels, temperature_panels
from service.compare.summary import summarize

VARIANTS = ["labels", "kd", "dkd"]
SEEDS = (0, 3)


@pytest.fixture(scope="module")
def runs():
    return make_runs(VARIANTS, SEEDS)


def summaries_of(runs, variants=VARIANTS):
    return summarize(runs, make_results(runs, variants), num_classes=5)


def lines(figure, name):
    """Lines of a name, by panel and by the text that is shown where one hovers."""
    return {
        (trace.xaxis, trace.meta): [*zip(trace.x, trace.y, strict=True)]
        for trace in figure.data
        if trace.name == name
    }


def panel_titles(figure):
    return [annotation.text for annotation in figure.layout.annotations]


def rounded(curve):
    return [(epoch, round(float(value), 5)) for epoch, value in curve]


def test_each_seed_has_its_curve_in_the_panel_of_its_variant(runs):
    figure = learning_curves(summaries_of(runs), "")
    axes = dict(zip(VARIANTS, ("x", "x2", "x3"), strict=True))
    assert panel_titles(figure) == VARIANTS
    assert lines(figure, "seed") == {
        (axes[run.variant], f"{run.variant}, seed {run.seed}"): rounded(run.curve) for run in runs
    }


def test_mean_curves_are_means_over_the_finished_seeds(runs):
    unfinished = runs[1]._replace(seed=9, state="failed", curve=((1, 0.9), (2, math.nan)))
    figure = learning_curves(summaries_of([*runs, unfinished]), "")
    by_variant = {name: [dict(r.curve) for r in runs if r.variant == name] for name in VARIANTS}
    means = {
        name: rounded((epoch, np.mean([curve[epoch] for curve in curves])) for epoch in curves[0])
        for name, curves in by_variant.items()
    }
    drawn = lines(figure, "mean")
    assert {text.removesuffix(", mean"): line for (_, text), line in drawn.items()} == means
    assert lines(figure, "mean of the base") == {
        (axis, "base, mean"): means["labels"] for axis in ("x2", "x3")
    }
    (failed,) = (key for key in lines(figure, "seed") if key[1].endswith("failed"))
    assert lines(figure, "seed")[failed] == [(1, 0.9)]


def test_late_epochs_fill_the_axis(runs):
    figure = learning_curves(summaries_of(runs), "")
    values = np.array([value for run in runs for _, value in run.curve])
    low, high = figure.layout.yaxis.range
    assert high > values.max()
    assert np.mean(values > low) == pytest.approx(0.85, abs=0.03)


def test_variant_below_the_others_is_seen(runs):
    low_curve = tuple((epoch, value - 0.5) for epoch, value in runs[0].curve)
    lowest = [r._replace(curve=low_curve) if r.variant == "dkd" else r for r in runs]
    low, _ = learning_curves(summaries_of(lowest), "").layout.yaxis.range
    assert np.mean([value > low for _, value in low_curve]) >= 0.5


def test_many_variants_have_a_panel_each_and_one_legend():
    names = [f"variant{number}" for number in range(21)]
    figure = learning_curves(summaries_of(make_runs(names, range(5)), names), "")
    assert panel_titles(figure) == names
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(shown) == ["mean", "mean of the base", "seed"]
    axes = [*figure.select_xaxes(selector={"showticklabels": True})]
    assert len(axes) == 4, "the lowest panel of each column has numbers"
    assert figure.layout.height > 6 * 150


def test_temperatures_are_means_in_a_band_of_percentiles(runs):
    figure = temperature_panels(summaries_of(runs), "")
    assert panel_titles(figure) == ["kd"]
    (metrics,) = {id(run.temperatures): run.temperatures for run in runs[1:2]}.values()
    for side in ("teacher", "student"):
        (line,) = (trace for trace in figure.data if trace.name == side)
        expected = metrics[f"dtkd/{side}_temperature_mean"]
        np.testing.assert_allclose(np.transpose([line.x, line.y]), expected, atol=1e-4)
        assert line.meta == f"kd, dtkd/{side}_temperature"
    bands = [trace for trace in figure.data if trace.fill == "tonexty"]
    edges = [figure.data[figure.data.index(band) - 1] for band in bands]
    for low, high in zip(edges, bands, strict=True):
        np.testing.assert_allclose(np.subtract(high.y, low.y), 2.0, atol=1e-4)


def test_temperature_of_a_step_is_a_line_without_a_band(runs):
    series = tuple((epoch, 1.0 + epoch) for epoch in (0.5, 3.5, 9.5))
    learned = [
        run._replace(temperatures={"ctkd/temperature": series} if run.variant == "dkd" else {})
        for run in runs
    ]
    figure = temperature_panels(summaries_of(learned), "")
    assert panel_titles(figure) == ["dkd"]
    (line,) = figure.data
    assert [*zip(line.x, line.y, strict=True)] == [*series]
    assert line.meta == "dkd, ctkd/temperature"


def test_reliability_of_student_and_teacher(runs):
    summaries = summaries_of(runs)
    figure = reliability_panels(summaries, "")
    for summary, axis in zip(summaries, ("x", "x2", "x3"), strict=True):
        students = [run.student for run in runs if run.variant == summary.name]
        confidences = np.concatenate([student.confidences for student in students])
        are_right = np.concatenate([student.are_right for student in students])
        bins = np.ceil(confidences.astype(float) * 15)
        expected = [
            (confidences[bins == number].mean(), are_right[bins == number].mean())
            for number in np.unique(bins)
        ]
        (line,) = (t for t in figure.data if (t.name, t.xaxis) == ("student", axis))
        np.testing.assert_allclose(np.transpose([line.x, line.y]), expected, atol=1e-4)
        counts = [np.sum(bins == number) for number in np.unique(bins)]
        assert list(line.hovertext) == [f"{summary.name}, student, {n} images" for n in counts]
    assert {t.xaxis for t in figure.data if t.name == "teacher"} == {"x2", "x3"}


def test_bins_of_few_images_are_left_out():
    rng = np.random.default_rng(0)
    few = make_runs(["labels"], (0,), num_images=300)
    confidences = np.full(300, 0.5, np.float32)
    confidences[:9], confidences[9:19] = 0.9, 0.1
    student = few[0].student._replace(confidences=rng.permutation(confidences))
    figure = reliability_panels(summaries_of([few[0]._replace(student=student)], ["labels"]), "")
    (line,) = (trace for trace in figure.data if trace.name == "student")
    np.testing.assert_allclose(line.x, [0.1, 0.5], atol=1e-4)


def test_panels_state_the_calibration_errors(runs):
    summaries = summaries_of(runs)
    titles = panel_titles(reliability_panels(summaries, ""))
    for title, summary in zip(titles, summaries, strict=True):
        errors = [*summary.calibration_errors.values()]
        text = f"ECE {100 * np.mean(errors):.1f} ± {100 * np.std(errors, ddof=1):.1f}%"
        assert title.split("<br>")[:2] == [summary.name, text]
    assert titles[0].count("<br>") == 1, "the base has no teacher"
    assert "<br>teacher " in titles[1]


def test_nothing_is_drawn_without_data(runs):
    bare = [
        run._replace(curve=((1, math.nan),), temperatures={}, student=None, teacher=None)
        for run in runs
    ]
    for draw in (learning_curves, temperature_panels, reliability_panels):
        assert draw(summaries_of(bare), "") is None


def test_names_in_panels_are_texts():
    names = ["labels", ATTACK]
    summaries = summaries_of(make_runs(names, SEEDS), names)
    for draw in (learning_curves, temperature_panels, reliability_panels):
        figure = draw(summaries, ATTACK)
        texts = [*panel_titles(figure), figure.layout.title.text]
        texts += [text for trace in figure.data for text in np.atleast_1d(trace.hovertext)]
        texts += [trace.meta for trace in figure.data]
        assert not any("<script" in str(text) or "<img" in str(text) for text in texts)
