import json

import pytest

from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.sweep.loading import load_sweep, parse_sweep
from service.sweep.rules import boundary_points, trial_content
from service.sweep.space import with_values


def problems(content):
    with pytest.raises(BadInputError) as error:
        parse_sweep(content)
    return {problem.where: f"{problem.wrong}; {problem.remedy}" for problem in error.value.problems}


def test_a_base_and_a_held_out_slice_are_enough(make_sweep_content):
    sweep = parse_sweep(make_sweep_content())

    assert {path: (p.kind, p.log or p.linear) for path, p in sweep.space.items()} == {
        "losses.dtkd.base_temperature": ("log", (1, 8)),
        "losses.dtkd.weight": ("linear", (0, 4)),
        "losses.kd.weight": ("linear", (0, 2)),
    }
    assert sweep.base.effective_losses().ce.weight == 1


def test_base_may_be_a_file(make_sweep_content, tmp_path):
    content = make_sweep_content()
    (tmp_path / "job.json").write_text(json.dumps(content["base"]))
    (tmp_path / "sweep.json").write_text(
        json.dumps({**content, "base": str(tmp_path / "job.json")})
    )

    assert load_sweep(tmp_path / "sweep.json").sweep == parse_sweep(content)


def test_missing_base_file_is_named(make_sweep_content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = problems(make_sweep_content() | {"base": "nowhere.json"})

    assert found["base"].startswith(f"{tmp_path}/nowhere.json: No such file")


def test_mistakes_in_the_base_are_reported_with_their_path(make_sweep_content):
    content = make_sweep_content(base={"optimizer": {"momentum": 0, "nesterov": True}})

    assert "base.optimizer.nesterov" in problems(content)


@pytest.mark.parametrize(
    ("path", "parameter", "wrong"),
    [
        ("losses.dtkd.wight", {"linear": [0, 1]}, "is not a field"),
        ("losses", {"linear": [0, 1]}, "is not a number"),
        ("losses.dtkd.weight", {}, "needs one of log, linear and choice"),
        ("losses.dtkd.weight", {"linear": [0, 1], "choice": [1]}, "needs one of"),
        ("losses.dtkd.weight", {"linear": [1, 0]}, "is from 1 to 0"),
        ("losses.dtkd.sharpness", {"linear": [0, 1]}, "is not a number"),
        ("schedule.num_epochs", {"linear": [2.5, 8]}, "takes integers only"),
        ("seed", {"choice": [0, 1]}, "cannot be searched"),
        ("resources.num_workers", {"choice": [1, 2]}, "cannot be searched"),
        ("dataset.val", {"choice": ["x"]}, "cannot be searched"),
        ("losses.dtkd.weight", {"choice": [1], "step": 1}, "choice with step"),
        ("losses.dtkd.weight.choice", {"choice": [1, 1]}, "has a value twice"),
        ("losses.dtkd.weight.points", {"linear": [0, 1], "points": 5}, "samples the whole range"),
    ],
)
def test_invalid_parameter_is_named(make_sweep_content, path, parameter, wrong):
    field = path.removesuffix(".choice").removesuffix(".points")

    assert wrong in problems(make_sweep_content(space={field: parameter}))[f"space.{path}"]


def test_log_range_from_zero_is_refused(make_sweep_content):
    assert "space.losses.dtkd.weight.log.0" in problems(
        make_sweep_content(space={"losses.dtkd.weight": {"log": [0, 1]}})
    )


def test_condition_needs_a_choice_of_this_space(make_sweep_content):
    weight = {"linear": [0, 1], "when": {"losses.dtkd.sharpness": ["norm"]}}
    where = "space.losses.dtkd.weight.when.losses.dtkd.sharpness"

    found = problems(make_sweep_content(space={"losses.dtkd.weight": weight}))
    assert "is not a parameter with a choice" in found[where]
    sharpness = {"choice": ["max"]}
    space = {"losses.dtkd.weight": weight, "losses.dtkd.sharpness": sharpness}
    assert "'norm' is not among" in problems(make_sweep_content(space=space))[where]


def test_circular_conditions_are_refused(make_sweep_content):
    space = {
        "losses.dtkd.sharpness": {"choice": ["max"], "when": {"losses.dtkd.detach": [True]}},
        "losses.dtkd.detach": {"choice": [True], "when": {"losses.dtkd.sharpness": ["max"]}},
    }

    assert "depends on this parameter itself" in str(problems(make_sweep_content(space=space)))


def test_every_point_must_be_a_valid_job(make_sweep_content):
    """Nesterov needs momentum: only one of the four corners is wrong."""
    space = {
        "optimizer.momentum": {"choice": [0.0, 0.9]},
        "optimizer.nesterov": {"choice": [False, True]},
    }
    found = problems(make_sweep_content(space=space))

    assert list(found) == ["space: optimizer.nesterov"]
    text = found["space: optimizer.nesterov"]
    assert "optimizer.momentum = 0.0, optimizer.nesterov = True" in text


def test_inner_values_of_a_range_are_checked_too(make_sweep_content):
    """Micro-batches of 16 divide the ends of this range, and not 72."""
    space = {"training.global_batch_size": {"linear": [64, 80], "step": 8}}

    assert "does not divide training.global_batch_size = 72" in str(
        problems(make_sweep_content(space=space))
    )


def test_a_condition_makes_points_valid(make_sweep_content):
    nesterov = {"choice": [False, True], "when": {"optimizer.momentum": [0.9]}}
    space = {"optimizer.momentum": {"choice": [0.0, 0.9]}, "optimizer.nesterov": nesterov}

    assert parse_sweep(make_sweep_content(space=space)).space.keys() == space.keys()


@pytest.mark.parametrize(
    ("section", "kind", "reason"),
    [
        ("scheduler", "pbt", "copies weights between them"),
        ("scheduler", "hyperband", "pauses trials"),
        ("algorithm", "bohb", "pause"),
    ],
)
def test_methods_that_cannot_work_are_refused_with_the_reason(
    make_sweep_content, section, kind, reason
):
    assert reason in problems(make_sweep_content(**{section: {"kind": kind}}))[f"{section}.kind"]


def test_unknown_methods_are_refused(make_sweep_content):
    assert "algorithm.kind" in problems(make_sweep_content(algorithm={"kind": "magic"}))


def test_cmaes_needs_a_range(make_sweep_content):
    space = {"losses.dtkd.sharpness": {"choice": ["max", "norm"]}}
    content = make_sweep_content(space=space, algorithm={"kind": "cmaes"})

    assert "models ranges only" in problems(content)["algorithm.kind"]


def test_two_objectives_exclude_a_scheduler(make_sweep_content):
    asha = make_sweep_content(minimize_time=True, scheduler={"kind": "asha"})

    assert "no single metric" in problems(asha)["scheduler.kind"]
    assert parse_sweep(make_sweep_content(minimize_time=True)).scheduler.kind == "none"


def test_number_of_epochs_is_not_searched_with_a_scheduler(make_sweep_content):
    space = {"schedule.num_epochs": {"linear": [3, 9]}}

    assert "equal length" in problems(make_sweep_content(space=space))["space.schedule.num_epochs"]
    none = {"kind": "none"}
    assert parse_sweep(make_sweep_content(space=space, scheduler=none)).scheduler.kind == "none"


def test_scheduler_needs_an_evaluation_before_it_stops_trials(make_sweep_content):
    content = make_sweep_content(
        base={"evaluation": {"every_epochs": 2}}, scheduler={"min_epochs": 3}
    )

    assert "there is no evaluation at" in problems(content)["base.evaluation.every_epochs"]


def test_held_out_slice_must_leave_images_to_train_on(make_sweep_content):
    found = problems(make_sweep_content(held_out={"num_images": 255}))

    assert "nothing to train on" in found["held_out.num_images"]


def test_weights_of_losses_need_a_teacher(make_sweep_content):
    found = problems(make_sweep_content(base={"teacher": None}))

    assert "losses.dtkd.base_temperature is searched" in found["base.teacher"]


def test_trials_differ_from_the_base_only_in_searched_and_held_out_fields(make_sweep_content):
    base = {"tracking": {"register_as": "student", "promote": {"alias": "champion"}}}
    sweep = parse_sweep(make_sweep_content(base=base))
    trial = parse_spec(with_values(trial_content(sweep, sweep.base), {"losses.dtkd.weight": 2.5}))

    assert trial.losses.dtkd.weight == 2.5
    assert trial.dataset.held_out.num_images == 64
    assert trial.tracking.register_as is trial.tracking.promote is None
    same = trial.model_copy(
        update={"losses": None, "dataset": sweep.base.dataset, "tracking": sweep.base.tracking}
    )
    assert same == sweep.base


@pytest.mark.parametrize(("points", "is_refused"), [((100, 100), False), ((73, 137), True)])
def test_grid_has_at_most_ten_thousand_points(make_sweep_content, points, is_refused):
    space = {
        path: {"linear": [1, 2], "points": count}
        for path, count in zip(("losses.dtkd.weight", "losses.kd.weight"), points, strict=True)
    }
    fields = {"algorithm": {"kind": "grid"}, "scheduler": {"kind": "none"}, "space": space}
    content = make_sweep_content(**fields)
    if is_refused:
        assert "more than 10,000 points" in problems(content)["algorithm.kind"]
    else:
        assert parse_sweep(content).algorithm.kind == "grid"


def test_at_most_five_problems_of_points_are_listed(make_sweep_content):
    """Six fields with a value that each makes the job invalid, in six ways."""
    values = {
        "optimizer.momentum": [0.9, 2.0],
        "optimizer.weight_decay": [0.0, -1.0],
        "losses.dtkd.weight": [1.0, -1.0],
        "losses.kd.weight": [1.0, -2.0],
        "training.label_smoothing": [0.0, 3.0],
        "schedule.final_fraction": [0.0, 7.0],
    }
    space = {path: {"choice": pair} for path, pair in values.items()}
    for count, expected in ((3, 3), (5, 5), (6, 5)):
        some = dict(list(space.items())[:count])
        assert len(problems(make_sweep_content(space=some))) == expected


def test_points_of_a_large_space_are_sampled_and_of_a_small_one_complete(make_sweep_content):
    """2^9 = 512 combinations of ends are all tried; of more, 512 at random."""
    paths = ["dtkd.weight", "kd.weight", "ce.weight", "dtkd.base_temperature", "warmup_epochs"]
    numbers = [f"losses.{name}" for name in paths]
    numbers += ["optimizer.momentum", "optimizer.weight_decay", "training.label_smoothing"]
    numbers += ["schedule.decay_factor", "augmentation.flip_probability"]
    for count, expected in ((9, 512), (10, 512)):
        space = {path: {"choice": [0.25, 0.5]} for path in numbers[:count]}
        points = list(boundary_points(parse_sweep(make_sweep_content(space=space))))
        assert len(points) == expected
        assert len({tuple(point.items()) for point in points}) >= 0.7 * expected
    space = {path: {"choice": [0.25, 0.5]} for path in numbers[:9]}
    points = list(boundary_points(parse_sweep(make_sweep_content(space=space))))
    assert len({tuple(point.items()) for point in points}) == 512


@pytest.mark.parametrize(("num_epochs", "is_right"), [(1, True), (2, False), (3, True)])
def test_trials_are_compared_before_their_last_epoch(make_sweep_content, num_epochs, is_right):
    """Trials of one epoch cannot be stopped early; of two, not after the second."""
    min_epochs = 1 if num_epochs == 1 else 2
    content = make_sweep_content(
        base={"schedule": {"num_epochs": num_epochs, "milestones": []}},
        scheduler={"kind": "asha", "min_epochs": min_epochs},
    )
    if is_right:
        assert parse_sweep(content).min_epochs == min_epochs
    else:
        assert "scheduler.min_epochs" in problems(content)
