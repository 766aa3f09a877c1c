"""tracking.checkpoints: its forms, and what is refused."""

import pytest

from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.spec.tracked_checkpoints import TrackedCheckpoints


def spec_of(make_content, checkpoints, **sections):
    schedule = {"num_epochs": 4, "milestones": []}
    return parse_spec(
        make_content(tracking={"checkpoints": checkpoints}, schedule=schedule, **sections)
    )


@pytest.mark.parametrize(
    ("checkpoints", "expected"),
    [
        ("last", None),
        ("best", TrackedCheckpoints(every_evaluations=1, newest=3, only_best=True)),
        ({}, TrackedCheckpoints(every_evaluations=1, newest=3, only_best=False)),
        ({"only_best": True, "newest": 9}, TrackedCheckpoints(newest=9, only_best=True)),
        ({"every_evaluations": 3}, TrackedCheckpoints(every_evaluations=3)),
    ],
)
def test_forms(make_content, checkpoints, expected):
    spec = spec_of(make_content, checkpoints)
    assert spec.tracking.tracked_checkpoints == expected
    assert spec.tracked_checkpoints == expected


def test_default_is_the_final_student_alone(make_content):
    assert parse_spec(make_content()).tracked_checkpoints is None


def test_runs_with_held_out_images_track_none_and_are_no_error(make_content):
    held_out = {"held_out": {"num_images": 32}}
    spec = spec_of(make_content, {"every_evaluations": 99}, dataset=held_out)
    assert spec.tracking.tracked_checkpoints is not None
    assert spec.tracked_checkpoints is None


CHOICES = "use 'last' or 'best', or an object with every_evaluations, newest and only_best"


@pytest.mark.parametrize(
    ("checkpoints", "line"),
    [
        ("bst", f"tracking.checkpoints: is 'bst'; {CHOICES}; did you mean 'best'?"),
        (5, f"tracking.checkpoints: is 5; {CHOICES}"),
        (None, f"tracking.checkpoints: is null; {CHOICES}"),
        (["best"], f'tracking.checkpoints: is ["best"]; {CHOICES}'),
        ({"newest": 0}, "tracking.checkpoints.newest: is 0; give a number greater than or equal"),
        ({"only_best": 1}, "tracking.checkpoints.only_best: is 1; give true or false"),
        (
            {"every_epochs": 2},
            "tracking.checkpoints.every_epochs: is not a field of the spec",
        ),
        (
            {"every_evaluations": 4},
            "tracking.checkpoints.every_evaluations: is 4, but the run has 4 evaluations, the last "
            "included; give at most 3",
        ),
        (
            {"every_evaluations": 2, "only_best": True},
            "tracking.checkpoints.every_evaluations: is 2, but only_best looks at each evaluation; "
            "remove it, or set only_best to false",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make_content, checkpoints, line):
    with pytest.raises(BadInputError) as error:
        spec_of(make_content, checkpoints)
    assert line in str(error.value)
    assert len(error.value.problems) == 1


def test_evaluations_are_counted_as_they_are_made(make_content):
    """After epochs 3 and 4 of 4; a run with one evaluation has no other student to log."""
    sparse = {"evaluation": {"every_epochs": 3}}
    with pytest.raises(BadInputError, match="has 2 evaluations"):
        spec_of(make_content, {"every_evaluations": 2}, **sparse)
    single = {"evaluation": {"every_epochs": 4}}
    assert spec_of(make_content, {"every_evaluations": 2}, **single).tracked_checkpoints is not None
