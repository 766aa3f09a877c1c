"""What the pictures of an evaluation show."""

import math

import numpy as np
import pytest
from support.evaluation_reports import KINDS, make_report

from service.evaluate.pictures import (
    calibration_figure,
    classes_figure,
    confusions_figure,
    corruptions_figure,
)
from service.evaluate.report import ClassAccuracy, Confusion


def test_classes_are_ranked_from_the_worst_on():
    classes = [
        ClassAccuracy("cat", 20, 0.9),
        ClassAccuracy("dog", 10, 0.2),
        ClassAccuracy("owl", 0, None),
        ClassAccuracy("elk", 50, 0.5),
    ]
    figure = classes_figure(classes)
    (trace,) = figure.data
    assert list(figure.layout.yaxis.ticktext) == ["dog", "elk", "cat"]
    assert list(trace.x) == [0.2, 0.5, 0.9]
    assert trace.hovertext[0] == "dog, 10 images"
    # Wilson's score interval of 2 in 10.
    z2 = 1.959963984540054**2
    middle, half = 0.2 + z2 / 20, math.sqrt(z2 * (0.2 * 0.8 / 10 + z2 / 400))
    low, high = ((middle + sign * half) / (1 + z2 / 10) for sign in (-1, 1))
    assert trace.error_x.array[0] == pytest.approx(high - 0.2)
    assert trace.error_x.arrayminus[0] == pytest.approx(0.2 - low)


def test_of_many_classes_the_worst_and_the_best_are_shown():
    random = np.random.default_rng(0)
    shares = random.permutation(200) / 200
    figure = classes_figure([ClassAccuracy(f"c{n}", 200, x) for n, x in enumerate(shares)])
    (trace,) = figure.data
    ranked = np.sort(shares)
    assert list(trace.x) == [*ranked[:20], *ranked[-10:]]
    assert figure.layout.yaxis.ticktext[0] == f"c{shares.argmin()}"
    assert "20 worst and the 10 best" in figure.layout.title.text


def test_confusions_name_both_classes():
    figure = confusions_figure(
        [Confusion("cat", "dog", 15, 0.75), Confusion("owl", "several classes", 2, 0.1)]
    )
    (trace,) = figure.data
    assert list(trace.x) == [0.75, 0.1]
    assert list(figure.layout.yaxis.ticktext) == ["cat<br>as dog", "owl<br>as several classes"]
    assert "15 images" in trace.hovertext[0]


def test_calibration_has_the_bins_with_images():
    report = make_report(("cat", "dog", "owl"))
    figure = calibration_figure(report.reliability)
    (line,) = (trace for trace in figure.data if trace.name == "model")
    assert list(line.x) == [0.4, 0.85]
    assert list(line.y) == [0.3, 0.9]


def test_corruptions_start_at_the_clean_accuracy():
    report = make_report(("cat", "dog", "owl"))
    figure = corruptions_figure(report.top1, report.corruptions)
    assert [trace.name for trace in figure.data] == [*KINDS]
    for trace in figure.data:
        assert list(trace.x) == [0, 1, 2, 3, 4, 5]
        assert list(trace.y) == pytest.approx([0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    assert len({trace.line.color for trace in figure.data}) == len(KINDS)


def test_nothing_is_drawn_without_data():
    assert classes_figure([ClassAccuracy("cat", 0, None)]) is None
    assert confusions_figure([]) is None
    assert calibration_figure(()) is None
    assert corruptions_figure(make_report(("a", "b", "c")).top1, ()) is None
