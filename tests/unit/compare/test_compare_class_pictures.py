import numpy as np
import pytest
from support.comparison_records import make_results, make_runs
from support.sweep_records import ATTACK

from service.compare.class_pictures import class_gains_figure
from service.compare.summary import summarize

VARIANTS = ["labels", "kd", "dkd"]


@pytest.fixture(scope="module")
def summaries():
    runs = make_runs(VARIANTS, [0, 1])
    return summarize(runs, make_results(runs, VARIANTS), num_classes=5)


def with_gains(summaries, *gains):
    return [
        summary._replace(class_gains=None if some is None else np.array(some))
        for summary, some in zip(summaries, (None, *gains), strict=True)
    ]


def test_map_has_a_row_for_each_variant_and_classes_by_mean_gain(summaries):
    changed = with_gains(summaries, [0.1, -0.2, 0.0], [0.3, -0.1, 0.05])
    figure = class_gains_figure(changed, "", ["cat", "dog", "owl"])
    (trace,) = figure.data
    assert [list(row) for row in trace.z] == [[-20.0, 0.0, 10.0], [-10.0, 5.0, 30.0]]
    assert list(figure.layout.xaxis.ticktext) == ["dog", "owl", "cat"]
    assert list(figure.layout.yaxis.ticktext) == ["kd", "dkd"]
    assert trace.zmin == -trace.zmax == -30.0, "no change is the middle of the colors"
    assert trace.hovertext[1][2] == "dkd, cat"


def test_classes_without_images_are_left_out(summaries):
    changed = with_gains(summaries, [0.1, np.nan], [0.3, np.nan])
    (trace,) = class_gains_figure(changed, "", ["cat", "dog"]).data
    assert [list(row) for row in trace.z] == [[10.0], [30.0]]


def test_variants_without_gains_have_no_row(summaries):
    figure = class_gains_figure(with_gains(summaries, None, [0.1, 0.2]), "", ["cat", "dog"])
    assert list(figure.layout.yaxis.ticktext) == ["dkd"]
    assert class_gains_figure(with_gains(summaries, None, None), "", ["cat", "dog"]) is None


def test_of_many_classes_the_most_changed_are_shown(summaries):
    rng = np.random.default_rng(0)
    few = np.zeros(1000)
    few[[7, 9]] = -0.5, 0.25
    gains = [rng.normal(0, 0.1, 1000), few]
    gains[0][3] = np.nan
    figure = class_gains_figure(with_gains(summaries, *gains), "", [f"c{n}" for n in range(1000)])
    known = np.sort(gains[0][np.isfinite(gains[0])])
    drawn = {
        (trace.name, row): [x for x, y in zip(trace.x, trace.y, strict=True) if y == row]
        for trace in figure.data
        for row in (0, 1)
    }
    expected = {
        ("lost", 0): 100 * known[:15],
        ("gained", 0): 100 * known[:-16:-1],
        ("lost", 1): [-50.0],
        ("gained", 1): [25.0],
    }
    assert drawn == {key: pytest.approx(values, abs=0.006) for key, values in expected.items()}
    lost = next(trace for trace in figure.data if trace.name == "lost")
    worst = f"c{np.nanargmin(gains[0])}"
    assert (lost.text[0], lost.hovertext[0]) == (worst, f"kd, {worst}")
    assert [text for text in lost.text if text] == [worst, "c7"]
    low, high = figure.layout.xaxis.range
    assert low < -50.0 < 25.0 < high


@pytest.mark.parametrize("num_classes", [3, 200])
def test_names_of_classes_are_texts(summaries, num_classes):
    gains = np.linspace(-1, 1, num_classes)
    figure = class_gains_figure(with_gains(summaries, gains, gains), "", [ATTACK] * num_classes)
    text = figure.to_json()
    assert "<script" not in text.encode().decode("unicode_escape")


def test_no_change_at_all_is_drawn(summaries, recwarn):
    for num_classes in (3, 200):
        zeros = np.zeros(num_classes)
        classes = [f"c{number}" for number in range(num_classes)]
        assert class_gains_figure(with_gains(summaries, zeros, zeros), "", classes).to_json()
    assert not recwarn.list
