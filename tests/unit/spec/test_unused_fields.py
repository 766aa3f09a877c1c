"""Fields that another field leaves without effect are refused; a stored spec stays valid."""

import json

import pytest

from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.spec.optimization import Schedule
from service.spec.unused_fields import SCHEDULES_WITH
from service.sweep.loading import parse_sweep
from service.training.schedules import learning_rate


def problems_of(content, parse=parse_spec):
    try:
        parse(content)
    except BadInputError as error:
        return {problem.where: f"{problem.wrong}; {problem.remedy}" for problem in error.problems}
    return {}


VALUES = {
    "milestones": [1],
    "decay_factor": 0.5,
    "final_fraction": 0.01,
    "power": 2.0,
    "rise_fraction": 0.5,
    "initial_fraction": 0.1,
}
KINDS = ("multistep", "cosine", "linear", "poly", "one_cycle")


def rates(kind, **fields):
    schedule = Schedule.model_validate({"kind": kind, "num_epochs": 3, **fields})
    return [learning_rate(schedule, 1.0, step, 5) for step in range(15)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", VALUES)
def test_a_field_of_a_schedule_is_refused_where_it_changes_no_rate(make_content, kind, field):
    """What uses a field is seen in the learning rates themselves."""
    content = make_content()
    content["schedule"] = {"num_epochs": 3, "kind": kind, field: VALUES[field]}
    is_used = rates(kind) != rates(kind, **{field: VALUES[field]})
    assert is_used == (kind in SCHEDULES_WITH[field])
    assert set(problems_of(content)) == (set() if is_used else {f"schedule.{field}"})


def test_the_message_names_the_kind_that_would_use_it(make_content):
    content = make_content()
    content["schedule"] = {"num_epochs": 3, "kind": "cosine", "rise_fraction": 0.5}
    assert problems_of(content) == {
        "schedule.rise_fraction": 'is 0.5, but kind is "cosine", which makes no use of it; remove '
        'it, or set kind to "one_cycle"'
    }


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"augmentation": {"padding": 2}}, "augmentation.padding"),
        ({"augmentation": {"crop": "pad_and_crop", "scale": [0.5, 1]}}, "augmentation.scale"),
        ({"augmentation": {"crop": "pad_and_crop", "ratio": [1, 1]}}, "augmentation.ratio"),
        ({"training": {"max_skipped_steps": 3}}, "training.max_skipped_steps"),
        ({"training": {"max_skipped_steps": 3, "on_nonfinite": "skip"}}, None),
        ({"resources": {"resize_interval_s": 5}}, "resources.resize_interval_s"),
        (
            {
                "resources": {"resize_interval_s": 5, "num_workers": [1, 2]},
                "training": {"micro_batch_size": 16},
            },
            None,
        ),
    ],
    ids=str,
)
def test_fields_without_effect_are_refused(make_content, sections, where):
    content = make_content(**{key: one for key, one in sections.items() if key != "augmentation"})
    # Without the crop that the content has by itself.
    if "augmentation" in sections:
        content["augmentation"] = {"size": content["augmentation"]["size"]} | sections[
            "augmentation"
        ]
    found = problems_of(content)
    assert (where in found) if where else found == {}


def test_images_that_no_threshold_is_measured_on_are_refused(make_content, teacher):
    content = make_content(teacher={**teacher, "min_top1_images": 5})
    assert set(problems_of(content)) == {"teacher.min_top1_images"}
    content["teacher"]["min_top1"] = 0.1
    assert problems_of(content) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_spec_which_lists_all_fields_is_valid(make_content, kind):
    content = make_content()
    content["schedule"] = {"num_epochs": 20, "kind": kind}
    spec = parse_spec(content)
    assert parse_spec(json.loads(spec.model_dump_json())) == spec


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"algorithm": {"kind": "random", "startup_trials": 3}}, "algorithm.startup_trials"),
        ({"scheduler": {"kind": "asha", "startup_trials": 3}}, "scheduler.startup_trials"),
        ({"scheduler": {"kind": "none", "reduction_factor": 2}}, "scheduler.reduction_factor"),
        ({"scheduler": {"kind": "none", "min_epochs": 1}}, "scheduler.min_epochs"),
        ({"scheduler": {"kind": "median", "startup_trials": 3}}, None),
    ],
    ids=str,
)
def test_fields_of_another_kind_of_search_are_refused(make_sweep_content, sections, where):
    found = problems_of(make_sweep_content(**sections), parse_sweep)
    assert set(found) == ({where} if where else set())
