"""Milestones that are left out: 30, 60 and 90 % of the epochs."""

import pytest

from service.spec.loading import parse_spec
from service.spec.optimization import Schedule
from service.sweep.loading import parse_sweep
from service.sweep.trials import trial_spec


@pytest.mark.parametrize(
    ("num_epochs", "milestones"),
    [
        (1, ()),
        (2, (1,)),
        (3, (1, 2)),
        (4, (1, 2, 3)),
        (10, (3, 6, 9)),
        (100, (30, 60, 90)),
        (300, (90, 180, 270)),
    ],
)
def test_milestones_left_out_scale_with_the_epochs(make_content, num_epochs, milestones):
    content = make_content()
    content["schedule"] = {"num_epochs": num_epochs}
    assert parse_spec(content).schedule.milestones == milestones


@pytest.mark.parametrize("num_epochs", range(1, 60))
def test_milestones_left_out_are_valid(num_epochs):
    milestones = Schedule(num_epochs=num_epochs).milestones
    assert list(milestones) == sorted(set(milestones))
    assert all(1 <= milestone < num_epochs for milestone in milestones)
    assert num_epochs == 1 or milestones


def test_given_milestones_are_kept(make_content):
    schedule = {"num_epochs": 50, "milestones": [7]}
    assert parse_spec(make_content(schedule=schedule)).schedule.milestones == (7,)
    schedule = {"num_epochs": 50, "milestones": []}
    assert parse_spec(make_content(schedule=schedule)).schedule.milestones == ()


def test_a_spec_that_writes_the_default_is_the_same(make_content):
    content = make_content()
    content["schedule"] = {"num_epochs": 20}
    short = parse_spec(content)
    content["schedule"]["milestones"] = [6, 12, 18]
    full = parse_spec(content)
    assert short == full
    assert short.content_hash() == full.content_hash()


def test_a_wrong_number_of_epochs_is_one_problem(make_content):
    content = make_content()
    content["schedule"] = {"num_epochs": 0}
    with pytest.raises(ValueError, match="num_epochs") as caught:
        parse_spec(content)
    assert "milestones" not in str(caught.value)


def test_trials_of_other_lengths_have_their_own_milestones(make_sweep_content):
    content = make_sweep_content(
        space={"schedule.num_epochs": {"choice": [10, 20]}}, scheduler={"kind": "none"}
    )
    content["base"]["schedule"] = {"num_epochs": 10}
    sweep = parse_sweep(content)
    # As it is stored, a sweep has the milestones in full.
    stored = type(sweep).model_validate_json(sweep.model_dump_json())
    for each in (sweep, stored):
        spec = trial_spec(each, each.base, 0, {"schedule.num_epochs": 20})
        assert spec.schedule.milestones == (6, 12, 18)
