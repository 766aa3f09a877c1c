from html import unescape

import numpy as np
import pytest
from support.comparison_records import make_results, make_runs
from support.sweep_records import ATTACK

from service.compare.pictures import Quantity, by_seed, forest, relative_to_base
from service.compare.summary import summarize

VARIANTS = ["labels", "kd", "dkd", "dtkd"]
SEEDS = (0, 3, 5)
TOP1 = Quantity("Top-1", "top-1")


@pytest.fixture(scope="module")
def summaries():
    return summaries_of(make_runs(VARIANTS, SEEDS), VARIANTS)


def summaries_of(runs, variants):
    return summarize(runs, make_results(runs, variants), num_classes=5)


def named(figure, *names):
    return [trace for trace in figure.data if trace.name in names]


def points(figure, *names):
    """The drawn values by hover text, and the rows in which they are."""
    return {
        text: (value, row)
        for trace in named(figure, *names)
        for text, value, row in zip(trace.hovertext, trace.x, trace.y, strict=True)
    }


def test_forest_has_the_differences_with_their_intervals(summaries):
    # Not symmetric, so that the ends cannot be exchanged.
    last = summaries[-1].result
    interval = last.difference - 0.01, last.difference + 0.03
    changed = summaries[-1]._replace(result=last._replace(interval=interval))
    summaries = [*summaries[:-1], changed]
    figure = forest(summaries, "")
    drawn = [
        (row, middle, middle - low, middle + high)
        for trace in figure.data
        if trace.name != "seed"
        for row, middle, low, high in zip(
            trace.y, trace.x, trace.error_x.arrayminus, trace.error_x.array, strict=True
        )
    ]
    results = [summary.result for summary in summaries]
    expected = [
        (row, *(100 * value for value in (result.difference, *result.interval)))
        for row, result in enumerate(results)
        if not result.is_base
    ]
    np.testing.assert_allclose(sorted(drawn), expected, atol=1e-9)


def test_colors_of_the_forest_tell_the_verdicts_of_the_table(summaries):
    names = "no more than noise", "better than the base", "WORSE than the base"
    verdicts = dict(enumerate(names, start=1))
    changed = [
        summary._replace(result=summary.result._replace(verdict=verdicts.get(row, "the base")))
        for row, summary in enumerate(summaries)
    ]
    figure = forest(changed, "")
    rows = {trace.name: list(trace.y) for trace in figure.data if trace.name != "seed"}
    assert rows == {name: [row] for row, name in enumerate(names, start=1)}
    assert len({trace.marker.color for trace in named(figure, *names)}) == 3


def test_forest_has_a_point_for_each_seed_that_both_have():
    runs = [r for r in make_runs(VARIANTS, SEEDS) if (r.variant, r.seed) != ("kd", 3)]
    top1 = {(run.variant, run.seed): run.last_top1 for run in runs}
    drawn = points(forest(summaries_of(runs, VARIANTS), ""), "seed")
    expected = {
        f"{variant}, seed {seed}": (100 * (value - top1["labels", seed]), VARIANTS.index(variant))
        for (variant, seed), value in top1.items()
        if variant != "labels"
    }
    assert drawn == {text: (pytest.approx(x), row) for text, (x, row) in expected.items()}
    assert len(drawn) == 3 * 3 - 1


def test_difference_without_an_interval_is_drawn_without_one():
    figure = forest(summaries_of(make_runs(VARIANTS, [0]), VARIANTS), "")
    (trace,) = named(figure, "more seeds needed")
    assert list(trace.error_x.array) == list(trace.error_x.arrayminus) == [0.0] * 3


def test_nothing_is_drawn_before_a_run_has_finished():
    runs = [run._replace(state="running", last_top1=None) for run in make_runs(VARIANTS, SEEDS)]
    summaries = summaries_of(runs, VARIANTS)
    assert forest(summaries, "") is None
    assert by_seed(TOP1, summaries, [summary.result.top1 for summary in summaries], "") is None


def test_every_seed_and_the_mean_of_each_variant_are_drawn(summaries):
    values = [summary.result.top1 for summary in summaries]
    figure = by_seed(TOP1, summaries, values, "")
    assert points(figure, "seed") == {
        f"{variant}, seed {seed}": (value, row)
        for row, (variant, some) in enumerate(zip(VARIANTS, values, strict=True))
        for seed, value in some.items()
    }
    assert points(figure, "mean") == {
        f"{variant}, mean of 3": (pytest.approx(sum(some.values()) / 3), row)
        for row, (variant, some) in enumerate(zip(VARIANTS, values, strict=True))
    }
    (line,) = figure.layout.shapes
    assert line.x0 == line.x1 == pytest.approx(sum(values[0].values()) / 3)


def test_variants_without_values_keep_their_rows(summaries):
    figure = by_seed(TOP1, summaries, [{}, {0: 0.5}, {}, {1: 0.6}], "")
    assert points(figure, "mean") == {"kd, mean of 1": (0.5, 1), "dtkd, mean of 1": (0.6, 3)}
    assert list(figure.layout.yaxis.ticktext) == ["<b>labels</b>", *VARIANTS[1:]]
    # From top to bottom.
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert not figure.layout.shapes


def test_costs_are_divided_by_the_mean_of_the_base(summaries):
    rates = [{0: 100.0, 1: 300.0}, {0: 150.0}, {}, {1: 500.0}]
    assert relative_to_base(summaries, rates) == [{0: 0.5, 1: 1.5}, {0: 0.75}, {}, {1: 2.5}]
    assert relative_to_base(summaries, [{}, *rates[1:]]) == [{}] * 4


@pytest.mark.parametrize("name", [ATTACK, "%{x} and %{customdata}", "very-long-name-" * 20])
def test_names_are_texts_and_labels_are_short(name):
    summaries = summaries_of(make_runs(["labels", name], SEEDS), ["labels", name])
    values = [summary.result.top1 for summary in summaries]
    for figure in (forest(summaries, "a pair"), by_seed(TOP1, summaries, values, "a pair")):
        assert figure.layout.title.text.startswith("a pair: ")
        assert all("<script" not in text for trace in figure.data for text in trace.hovertext)
        assert all(name not in trace.hovertemplate for trace in figure.data)
        label = unescape(figure.layout.yaxis.ticktext[1])
        assert len(label) <= 22
        assert label[:10] == name[:10]


def test_figures_are_as_tall_as_their_rows_need():
    heights = []
    for count in (2, 21):
        names = [f"variant{number}" for number in range(count)]
        heights.append(forest(summaries_of(make_runs(names, [0, 1]), names), "").layout.height)
    assert heights[1] - heights[0] >= 19 * 20
