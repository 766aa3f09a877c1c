"""Calibration and agreement are logged at each evaluation; predictions are kept of the last."""

import numpy as np
import pytest
from support.training_runs import run_alone, run_together

from service.run.journal import JOURNAL_NAME, read_events
from service.run.predictions import (
    STUDENT_PREDICTIONS_NAME,
    TEACHER_PREDICTIONS_NAME,
    Predictions,
    read_predictions,
)
from service.spec.loading import parse_spec
from service.training.prediction_recorder import PredictionRecorder

NUM_EPOCHS = 3


def evaluations(spec):
    return [e.values for e in read_events(spec.run_path / JOURNAL_NAME) if e.kind == "evaluation"]


def expected_ece(found, num_bins=15):
    """By the definition, image by image in float64."""
    bins = np.ceil(found.confidences.astype(float) * num_bins)
    total = 0.0
    for number in np.unique(bins):
        chosen = bins == number
        accuracy = np.mean(found.predicted[chosen] == found.labels[chosen])
        total += chosen.sum() * abs(accuracy - found.confidences[chosen].astype(float).mean())
    return total / len(bins)


def test_each_evaluation_has_its_calibration_error_and_agreement(
    make_content, teacher, monkeypatch
):
    gathered, recorded = PredictionRecorder.gathered, []

    def gather_and_keep(*arguments):
        recorded.append(gathered(*arguments))
        return recorded[-1]

    written, write = [], Predictions.write
    monkeypatch.setattr(PredictionRecorder, "gathered", gather_and_keep)
    monkeypatch.setattr(
        Predictions, "write", lambda found, path: (written.append(path.name), write(found, path))
    )
    spec = parse_spec(make_content(teacher=teacher, schedule={"num_epochs": NUM_EPOCHS}))
    run_alone(spec)

    of_teacher, *of_student = recorded
    found = evaluations(spec)
    assert len(found) == len(of_student) == NUM_EPOCHS
    for values, predictions in zip(found, of_student, strict=True):
        assert values["val/ece"] == pytest.approx(expected_ece(predictions), abs=1e-9)
        are_same = predictions.predicted == of_teacher.predicted
        assert values["val/agreement"] == pytest.approx(np.mean(are_same))
        assert values["val/top1"] == pytest.approx(predictions.are_right.mean())
    assert written.count(STUDENT_PREDICTIONS_NAME) == 1
    stored = read_predictions(spec.run_path / STUDENT_PREDICTIONS_NAME)
    assert stored.predicted.tolist() == of_student[-1].predicted.tolist()


def test_damaged_predictions_of_the_teacher_do_not_end_the_run(make_content, teacher, monkeypatch):
    spec = parse_spec(make_content(teacher=teacher))
    gathered = PredictionRecorder.gathered

    def gather_after_damage(*arguments):
        path = spec.run_path / TEACHER_PREDICTIONS_NAME
        if path.exists():
            path.write_bytes(b"damaged")
        return gathered(*arguments)

    monkeypatch.setattr(PredictionRecorder, "gathered", gather_after_damage)
    run_alone(spec)
    for values in evaluations(spec):
        assert "val/ece" in values
        assert "val/agreement" not in values


@pytest.mark.slow
def test_several_workers_log_what_one_does(make_content, teacher, tmp_path):
    alone = parse_spec(make_content(name="alone", teacher=teacher))
    run_alone(alone)
    content = make_content(name="together", teacher=teacher)
    run_together(content, 2, tmp_path)
    names = ("val/top1", "val/ece", "val/agreement")
    for one, two in zip(evaluations(alone), evaluations(parse_spec(content)), strict=True):
        assert {n: one[n] for n in names} == pytest.approx({n: two[n] for n in names}, abs=0.02)
