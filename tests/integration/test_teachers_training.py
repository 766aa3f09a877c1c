"""Training with several teachers, of more classes and of another resolution than the student's."""

import pytest
from comparison import assert_same_result
from support.teachers import write_teacher
from support.training_runs import InterruptedRunError, loss_series, run_alone

from service.run.control import read_abort_reason
from service.spec.loading import parse_spec


@pytest.fixture
def two_teachers(teacher, tmp_path):
    """Sections of a job with two teachers."""
    other = write_teacher(tmp_path / "more.safetensors", 7)
    fields = {"classes": [6, 0, 3, 1], "size": 24, "weight": 2}
    return {
        "teacher": {**teacher, "others": [{**other, **fields}], "mean_of": "probabilities"},
        "schedule": {"num_epochs": 3, "milestones": [2]},
    }


def test_resumed_run_equals_a_straight_one(make_content, two_teachers):
    reference = parse_spec(make_content(name="reference", **two_teachers))
    resumed = parse_spec(make_content(name="resumed", **two_teachers))
    run_alone(reference)
    with pytest.raises(InterruptedRunError):
        run_alone(resumed, stop_after_epochs=1)
    run_alone(resumed)
    assert_same_result(resumed, reference)


def test_equal_teachers_train_as_one(make_content, teacher):
    """Powers of two: the mean of equal logits is exact."""
    one = {"teacher": teacher, "schedule": {"num_epochs": 2, "milestones": []}}
    three = {**one, "teacher": {**teacher, "others": [teacher, {**teacher, "weight": 2}]}}
    specs = [
        parse_spec(make_content(name=f"run{index}", **sections))
        for index, sections in enumerate((one, three))
    ]
    for spec in specs:
        run_alone(spec)
    assert loss_series(specs[0]) == loss_series(specs[1])


def test_mean_below_the_minimum_aborts_the_run(make_content, two_teachers):
    two_teachers["teacher"]["min_top1"] = 0.99
    spec = parse_spec(make_content(**two_teachers))
    run_alone(spec)
    assert read_abort_reason(spec.run_path).text.startswith("teacher.min_top1")
