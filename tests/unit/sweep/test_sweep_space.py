import math

import optuna
import pytest

from service.spec.loading import parse_spec
from service.sweep.space import (
    JSON_PREFIX,
    SearchSpace,
    decoded,
    encoded,
    is_integer,
    is_numeric,
    leaf_types,
    point_of_job,
    with_values,
)
from service.sweep.spec import Parameter

optuna.logging.set_verbosity(optuna.logging.WARNING)

SPACE = {
    "optimizer.momentum": Parameter(linear=(0.5, 0.9), when={"optimizer.kind": ("sgd",)}),
    "optimizer.kind": Parameter(choice=("sgd", "adamw")),
    "losses.dtkd.base_temperature": Parameter(log=(1, 8)),
    "training.global_batch_size": Parameter(linear=(64, 128), step=32),
}


def sample_points(count=200):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = SearchSpace(SPACE)
    return [space.sample(study.ask()) for _ in range(count)]


def test_parameter_is_sampled_only_where_its_condition_holds():
    points = sample_points()

    assert {point["optimizer.kind"] for point in points} == {"sgd", "adamw"}
    assert all(
        ("optimizer.momentum" in point) == (point["optimizer.kind"] == "sgd") for point in points
    )


def test_values_lie_in_their_ranges_and_on_their_steps():
    points = sample_points()

    assert all(1 <= point["losses.dtkd.base_temperature"] <= 8 for point in points)
    assert {point["training.global_batch_size"] for point in points} == {64, 96, 128}


def test_log_ranges_are_sampled_evenly_in_the_logarithm():
    """Half of the samples from 1 to 8 lie below their geometric mean."""
    temperatures = [point["losses.dtkd.base_temperature"] for point in sample_points(2000)]

    below = sum(t < math.sqrt(8) for t in temperatures)
    # The standard deviation for 2,000 samples is 22.
    assert abs(below - 1000) < 110


def test_grid_has_every_combination_that_the_conditions_allow_once():
    space = SearchSpace(
        {
            "optimizer.kind": Parameter(choice=("sgd", "adamw")),
            "optimizer.momentum": Parameter(
                linear=(0.5, 0.9), points=5, when={"optimizer.kind": ("sgd",)}
            ),
            "losses.dtkd.weight": Parameter(linear=(0, 4)),
        }
    )
    points = space.grid()

    # (5 momenta with sgd + none with adamw) x 3 alphas.
    assert len(points) == 18
    assert {p["losses.dtkd.weight"] for p in points} == {0, 2, 4}
    momenta = sorted({p["optimizer.momentum"] for p in points if "optimizer.momentum" in p})
    assert momenta == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])


def test_log_grid_has_equal_ratios():
    values = [
        p["losses.dtkd.base_temperature"]
        for p in SearchSpace(
            {"losses.dtkd.base_temperature": Parameter(log=(1, 8), points=4)}
        ).grid()
    ]  # fmt: skip

    assert values == pytest.approx([1, 2, 4, 8])


def test_grid_keeps_to_steps_and_integers():
    space = {"training.global_batch_size": Parameter(linear=(64, 160), step=32, points=9)}

    assert [p["training.global_batch_size"] for p in SearchSpace(space).grid()] == [
        64,
        96,
        128,
        160,
    ]


def test_values_are_set_where_sections_are_missing():
    changed = with_values({"a": None, "b": {"c": 1}}, {"a.x": 2, "b.c": 3, "d.e.f": 4})

    assert changed == {"a": {"x": 2}, "b": {"c": 3}, "d": {"e": {"f": 4}}}


def test_setting_values_does_not_change_the_content():
    content = {"a": {"x": 1}}
    with_values(content, {"a.x": 2})

    assert content == {"a": {"x": 1}}


def test_own_settings_are_a_point_of_a_space_that_contains_them(make_content, teacher):
    spec = parse_spec(make_content(teacher=teacher, losses={"dtkd": {"base_temperature": 2}}))

    inside = SearchSpace({"losses.dtkd.base_temperature": Parameter(log=(1, 8))})
    assert point_of_job(spec, inside) == {"losses.dtkd.base_temperature": 2}
    outside = SearchSpace({"losses.dtkd.base_temperature": Parameter(log=(3, 8))})
    assert point_of_job(spec, outside) is None


def test_own_settings_include_defaults_that_the_job_leaves_out(make_content, teacher):
    spec = parse_spec(make_content(teacher=teacher))
    space = SearchSpace({"losses.dtkd.weight": Parameter(linear=(0, 4))})

    assert point_of_job(spec, space) == {"losses.dtkd.weight": 3.0}


def test_sections_are_encoded_as_plain_values():
    point = {"a": [1, {"b": None}], "c": "json", "d": True, "e": None}

    kept = encoded(point)
    assert all(value is None or isinstance(value, bool | str) for value in kept.values())
    assert decoded(kept) == point


@pytest.mark.parametrize(
    ("path", "numeric", "integer"),
    [
        ("losses.dtkd.weight", True, False),
        ("schedule.num_epochs", True, True),
        ("optimizer.learning_rate", True, False),
        ("optimizer.nesterov", False, False),
        ("losses.dtkd.sharpness", False, False),
        ("training.max_grad_norm", True, False),
        ("augmentation.rand_augment.magnitude", True, True),
        ("schedule.milestones", False, False),
    ],
)
def test_types_of_fields_are_found_in_unions_and_optional_sections(path, numeric, integer):
    found = leaf_types(path)

    assert (is_numeric(found), is_integer(found)) == (numeric, integer)


def test_unknown_field_has_no_type():
    assert leaf_types("losses.dtkd.wight") == leaf_types("alfa.x") == set()


def test_stored_point_is_read_back():
    point = {"a": 1, "b": "text", "c": [1, {"d": None}], "e": f"{JSON_PREFIX}[", "f": JSON_PREFIX}
    assert decoded(encoded(point)) == point
    assert all(isinstance(value, int | str) for value in encoded(point).values())
