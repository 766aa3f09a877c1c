"""A reliability diagram shows the bins of the predictions, and the calibration errors."""

import numpy as np
import pytest

from service.pages.reliability import diagram_of, reliability_figure
from service.run.predictions import INVALID, Predictions


def predictions(confidences, are_right):
    """Of class 0, or of class 1 where it is wrong; all labels are 0."""
    count = len(confidences)
    return Predictions(
        np.arange(count),
        np.zeros(count, np.int32),
        np.where(are_right, 0, 1).astype(np.int32),
        np.asarray(confidences, np.float32),
        np.ones(count, bool),
        np.ones(count, np.float32),
    )


@pytest.fixture(scope="module")
def diagrams():
    student = predictions([0.9] * 20 + [0.5] * 40, [True] * 10 + [False] * 10 + [True] * 40)
    teacher = predictions([0.7] * 60, [True] * 30 + [False] * 30)
    return {"teacher": diagram_of(teacher), "student": diagram_of(student)}


def points(figure, name):
    (line,) = (trace for trace in figure.data if trace.name == name)
    return [*zip(line.x, line.y, strict=True)]


def test_points_are_mean_confidence_and_accuracy_of_each_bin(diagrams):
    figure = reliability_figure(diagrams)
    assert points(figure, "student") == [(0.5, 1.0), (0.9, 0.5)]
    assert points(figure, "teacher") == [(0.7, 0.5)]
    assert points(figure, "as accurate as confident") == [(0, 0), (1, 1)]
    (line,) = (trace for trace in figure.data if trace.name == "student")
    assert list(line.hovertext) == ["student, 40 images", "student, 20 images"]


def test_title_has_the_calibration_errors(diagrams):
    title = reliability_figure(diagrams).layout.title.text.replace("<br>", " ")
    # (20 x |0.5 - 0.9| + 40 x |1 - 0.5|) / 60, and |0.5 - 0.7|.
    assert "ECE: teacher 20.0%, student 46.7%;" in title


def test_predictions_without_a_confidence_have_no_diagram():
    nothing = predictions([0.9], [True])._replace(predicted=np.array([INVALID], np.int32))
    assert diagram_of(nothing) is None
    assert diagram_of(None) is None
