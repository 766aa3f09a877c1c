"""Sweeps over the losses of a job that names them, and of one that leaves them out."""

import pytest

from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.sweep.loading import parse_sweep
from service.sweep.rules import trial_content
from service.sweep.space import SearchSpace, point_of_job, with_values
from service.sweep.spec import Parameter


@pytest.fixture
def trial_of(make_sweep_content):
    """The losses of the trial with a point's settings, for a base with these losses."""

    def trial_of(point, losses=None, space=None):
        base = {} if losses is None else {"losses": losses}
        space = space or {path: {"choice": [value]} for path, value in point.items()}
        sweep = parse_sweep(make_sweep_content(base=base, space=space))
        content = trial_content(sweep, sweep.base)
        return parse_spec(with_values(content, point)).effective_losses()

    return trial_of


def test_a_searched_loss_leaves_the_others_of_the_default(trial_of):
    losses = trial_of({"losses.dtkd.weight": 2.5})
    weights = {name: section.weight for name, section in losses.active.items()}
    assert weights == {"ce": 1.0, "dtkd": 2.5, "kd": 1.0}
    assert losses.dtkd.base_temperature == losses.kd.temperature == 4.0
    assert trial_of({"losses.kd.weight": 0}).active.keys() == {"ce", "dtkd"}


def test_a_searched_warm_up_leaves_the_losses_of_the_default(trial_of):
    losses = trial_of({"losses.warmup_epochs": 3})
    assert losses.active.keys() == {"ce", "dtkd", "kd"}
    assert losses.warmup_epochs == 3


def test_losses_that_the_base_names_are_all_there_are(trial_of):
    losses = trial_of({"losses.dkd.beta": 2}, losses={"ce": {}, "dkd": {"alpha": 0.5}})
    assert losses.active.keys() == {"ce", "dkd"}
    assert (losses.dkd.alpha, losses.dkd.beta) == (0.5, 2.0)


@pytest.mark.parametrize(
    ("losses", "space", "where", "word"),
    [
        (
            {"ce": {}},
            {"losses.dkd.beta": {"linear": [1, 8]}},
            "space.losses.dkd.beta",
            "losses.dkd,",
        ),
        ({"ce": {}, "dkd": {}}, None, "space", "is left out, and has losses.dtkd.base_temperature"),
    ],
)
def test_no_point_adds_a_loss_that_the_base_does_not_have(
    make_sweep_content, losses, space, where, word
):
    content = make_sweep_content(base={"losses": losses}, space=space or {})
    if space is None:
        del content["space"]
    with pytest.raises(BadInputError) as caught:
        parse_sweep(content)
    found = [str(one) for one in caught.value.problems if one.where == where]
    assert word in found[0]
    assert "which base.losses does not have" in found[0]


def test_a_loss_that_the_base_does_not_have_is_chosen_as_a_whole(trial_of):
    losses = trial_of({"losses.dkd": {"beta": 2}}, losses={"ce": {}})
    assert losses.active.keys() == {"ce", "dkd"}
    assert losses.dkd.beta == 2.0


def test_parts_of_a_loss_are_searched_on_a_range(make_sweep_content):
    base = {"losses": {"ce": {}, "dkd": {"beta": 4}}}
    space = {"losses.dkd.beta": {"linear": [0.5, 8]}, "losses.dkd.temperature": {"log": [1, 8]}}
    sweep = parse_sweep(make_sweep_content(base=base, space=space))
    own = point_of_job(sweep.base, SearchSpace(sweep.space))
    assert own == {"losses.dkd.beta": 4.0, "losses.dkd.temperature": 4.0}


def test_whole_losses_are_choices(trial_of):
    """null leaves the loss out; the others of the base stay."""
    settings = [None, {"weight": 2, "beta": 6}, {"temperature": {"kind": "teacher_max"}}]
    space = {"losses.dkd": {"choice": settings}}
    found = [trial_of({"losses.dkd": each}, {"ce": {}, "kd": {}}, space) for each in settings]
    assert [list(losses.active) for losses in found] == [
        ["ce", "kd"],
        ["ce", "kd", "dkd"],
        ["ce", "kd", "dkd"],
    ]
    assert (found[1].dkd.weight, found[1].dkd.beta) == (2.0, 6.0)
    assert found[2].dkd.temperature.kind == "teacher_max"


def test_all_losses_together_are_choices(trial_of):
    settings = [{"ce": {}, "dtkd": {}}, {"ce": {"weight": 0.1}, "kd": {}}]
    space = {"losses": {"choice": settings}}
    found = [trial_of({"losses": each}, None, space) for each in settings]
    assert [list(losses.active) for losses in found] == [["ce", "dtkd"], ["ce", "kd"]]
    assert found[1].ce.weight == 0.1


def test_own_settings_are_those_of_a_loss_that_is_absent(make_content, teacher):
    spec = parse_spec(make_content(teacher=teacher))
    choice = SearchSpace({"losses.dkd": Parameter(choice=(None, {"beta": 2}))})
    assert point_of_job(spec, choice) == {"losses.dkd": None}
    # A field of a loss that the job does not have is in no range.
    field = SearchSpace({"losses.dkd.beta": Parameter(linear=(0, 8))})
    assert point_of_job(spec, field) is None


@pytest.mark.parametrize(
    ("space", "where", "word"),
    [
        ({"losses.dkd": {"linear": [0, 1]}}, "space.losses.dkd", "is not a number"),
        ({"losses.dkt.beta": {"linear": [0, 1]}}, "space.losses.dkt.beta", "is not a field"),
        ({"losses.dkd.betta": {"linear": [0, 1]}}, "space.losses.dkd.betta", "losses.dkd.beta?"),
        (
            {"losses.dkd": {"choice": [None]}, "losses.dkd.beta": {"linear": [0, 1]}},
            "space.losses.dkd.beta",
            "is a part of losses.dkd",
        ),
    ],
)
def test_mistakes_in_a_space_of_losses_are_named(make_sweep_content, space, where, word):
    with pytest.raises(BadInputError) as caught:
        parse_sweep(make_sweep_content(space=space))
    problems = {problem.where: str(problem) for problem in caught.value.problems}
    assert word in problems[where]


@pytest.mark.parametrize(
    ("space", "word"),
    [
        ({"losses.dkd.weight": {"linear": [-1, 1]}}, "losses.dkd.weight"),
        ({"losses.crld": {"choice": [None, {}]}}, "augmentation.strong"),
        ({"losses": {"choice": [{"ce": {}}, {}]}}, "has no loss with a positive weight"),
        ({"losses.warmup_epochs": {"linear": [0, 10]}}, "more than schedule.num_epochs = 9"),
    ],
)
def test_points_that_break_a_rule_of_losses_are_refused(make_sweep_content, space, word):
    with pytest.raises(BadInputError) as caught:
        parse_sweep(make_sweep_content(space=space))
    assert any(word in str(problem) for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("losses", "expected"),
    # Of 27 epochs: a third; after the distillation's warm-up, up to half of them.
    [({"ce": {}}, 9), ({"ce": {}, "kd": {}, "warmup_epochs": 11}, 11),
     ({"kd": {}, "warmup_epochs": 25}, 14), ({"kd": {}}, 9),
     ({"ce": {}, "kd": {"weight": 0}, "warmup_epochs": 11}, 9)],
)  # fmt: skip
def test_no_trial_is_stopped_before_the_losses_have_their_weight(
    make_sweep_content, losses, expected
):
    base = {"losses": losses, "schedule": {"num_epochs": 27, "milestones": []}}
    space = {"optimizer.learning_rate": {"log": [0.01, 0.1]}}
    sweep = parse_sweep(make_sweep_content(base=base, space=space))
    held_out = sweep.held_out.model_copy(update={"num_images": 5000})
    assert sweep.model_copy(update={"held_out": held_out}).min_epochs == expected


@pytest.mark.parametrize(
    ("path", "needs_teacher"),
    [("losses.ce.weight", False), ("losses.warmup_epochs", False), ("losses.wkd.gamma", True)],
)
def test_only_losses_with_a_teacher_need_one_in_the_base(make_sweep_content, path, needs_teacher):
    base = {"teacher": None, "losses": {"ce": {}}}
    content = make_sweep_content(base=base, space={path: {"linear": [0.5, 1]}})
    if not needs_teacher:
        assert list(parse_sweep(content).space) == [path]
        return
    with pytest.raises(BadInputError, match=rf"base\.teacher: is absent, but {path} is searched"):
        parse_sweep(content)
