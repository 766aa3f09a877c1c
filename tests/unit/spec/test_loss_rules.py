"""Each rule about the losses of a spec at its bound: just allowed, and just not."""

import pytest

from service.distillation.losses import LOSSES
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.spec.losses import Losses
from service.spec.losses.base import LossSection

STRONG = {"augmentation": {"strong": {}}}
ALONE = {"training": {"micro_batch_size": None}, "resources": {"num_workers": 2}}
NEED_NO_TEACHER = {"ce"}
COUPLED = {"dist", "mlkd", "gkl"}
NEED_TWO_VIEWS = {"mlkd", "crld"}
NAMES = [
    name
    for name, field in Losses.model_fields.items()
    if name not in {"entropy_weights", "warmup_epochs"}
]


@pytest.fixture
def find(make_content, teacher):
    """The problems of a spec with these losses, by field: what is wrong, and the remedy."""

    def find(losses, *, has_teacher=True, **sections):
        given = {"teacher": teacher} if has_teacher else {}
        try:
            parse_spec(make_content(**given, losses=losses, **sections))
        except BadInputError as error:
            return {
                problem.where: f"{problem.wrong}; {problem.remedy}" for problem in error.problems
            }
        return {}

    return find


def test_tables_of_sections_and_of_formulas_name_the_same_losses():
    assert list(LOSSES) == NAMES
    assert all(isinstance(getattr(Losses(**{name: {}}), name), LossSection) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_needs_a_teacher_unless_it_is_about_labels_alone(find, name):
    sections = STRONG if name in NEED_TWO_VIEWS else {}
    losses = {name: {"top_k": 2} if name == "ldrld" else {}}
    assert find(losses, **sections) == {}
    found = find(losses, has_teacher=False, **sections)
    if name in NEED_NO_TEACHER:
        assert found == {}
    else:
        assert found.keys() == {f"losses.{name}"}
        assert "compares the student with a teacher, but there is none" in found[f"losses.{name}"]


def test_the_first_loss_that_needs_a_teacher_is_named_once(find):
    found = find({"ce": {}, "kd": {}, "dkd": {}, "dtkd": {"weight": 0}}, has_teacher=False)
    assert found.keys() == {"losses.kd"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("has_teacher", [True, False])
def test_weight_0_is_as_if_the_loss_were_absent(find, name, has_teacher):
    """No rule sees it: a teacher, a strong view, a micro-batch, top_k and so on."""
    losses = {"ce": {}, name: {"weight": 0}}
    if name == "ce":
        losses["kd" if has_teacher else "ce"] = {"weight": 1}
    assert find(losses, has_teacher=has_teacher, **ALONE) == {}


@pytest.mark.parametrize(
    "losses",
    [{}, {"warmup_epochs": 1}, {"ce": {"weight": 0}}, {"ce": {"weight": 0}, "kd": {"weight": 0}}],
)
def test_nothing_to_train_on_is_refused(find, losses):
    found = find(losses)
    assert found.keys() == {"losses"}
    assert "has no loss with a positive weight" in found["losses"]
    assert find({"ce": {"weight": 1e-9}}) == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_couples_samples_needs_the_size_of_a_micro_batch(find, name):
    sections = STRONG if name in NEED_TWO_VIEWS else {}
    found = find({name: {"top_k": 2} if name == "ldrld" else {}}, **ALONE, **sections)
    assert found.keys() == ({"training.micro_batch_size"} if name in COUPLED else set())
    if found:
        assert f"losses.{name} compares" in found["training.micro_batch_size"]


@pytest.mark.parametrize("name", NAMES)
def test_a_strong_view_is_there_where_a_loss_needs_it_and_only_there(find, name):
    losses = {name: {"top_k": 2} if name == "ldrld" else {}}
    (with_view, without) = find(losses, **STRONG), find(losses)
    if name in NEED_TWO_VIEWS:
        assert (with_view, without.keys()) == ({}, {"augmentation.strong"})
        assert f"losses.{name} needs a second view" in without["augmentation.strong"]
    else:
        assert (with_view.keys(), without) == ({"augmentation.strong"}, {})
        assert "no loss uses a second view" in with_view["augmentation.strong"]


@pytest.mark.parametrize(
    ("losses", "uses_it"),
    [
        ({"ce": {"views": "both"}}, True),
        ({"ce": {"views": "weak"}}, False),
        ({"ce": {"views": "both", "weight": 0}, "kd": {}}, False),
        ({"ce": {}, "crld": {"weight": 0}}, False),
        ({"ce": {}, "crld": {"weight": 0.1}}, True),
        # Absent: the default.
        (None, False),
    ],
)
def test_a_strong_view_without_a_use_is_refused(find, losses, uses_it):
    assert find(losses, **STRONG).keys() == (set() if uses_it else {"augmentation.strong"})


@pytest.mark.parametrize("losses", [{"ce": {}}, {"ce": {}, "kd": {"weight": 0}}, {"kd": {}}])
def test_entropy_weights_need_a_loss_with_a_teacher(find, losses):
    found = find({**losses, "entropy_weights": {}})
    is_used = losses.get("kd", {"weight": 0}).get("weight") != 0
    assert found.keys() == (set() if is_used else {"losses.entropy_weights"})


def test_entropy_weights_alone_are_no_loss(find):
    assert find({"entropy_weights": {}}).keys() == {"losses", "losses.entropy_weights"}


NUM_EPOCHS = {"num_epochs": 4, "milestones": []}


@pytest.mark.parametrize(
    ("losses", "where"),
    [
        ({"kd": {}, "warmup_epochs": 4}, None),
        ({"kd": {}, "warmup_epochs": 0}, None),
        ({"kd": {}, "warmup_epochs": 4.5}, "losses.warmup_epochs"),
        ({"kd": {}, "warmup_epochs": -1}, "losses.warmup_epochs"),
        ({"ctkd": {"ramp_epochs": 4}}, None),
        ({"ctkd": {"ramp_epochs": 4.5}}, "losses.ctkd.ramp_epochs"),
        ({"ctkd": {}}, None),
        ({"wkd": {"decay_from_epoch": 3}}, None),
        ({"wkd": {"decay_from_epoch": 4}}, "losses.wkd.decay_from_epoch"),
        # The dataset has four classes.
        ({"ldrld": {"top_k": 3}}, None),
        ({"ldrld": {"top_k": 4}}, "losses.ldrld.top_k"),
        ({"ldrld": {}}, "losses.ldrld.top_k"),
        ({"ldrld": {"top_k": 1}}, "losses.ldrld.top_k"),
        ({"ldrld": {"weight": 0}, "ce": {}}, None),
        ({"mlkd": {"temperatures": []}}, "losses.mlkd.temperatures"),
        ({"mlkd": {"temperatures": [2, 0]}}, "losses.mlkd.temperatures.1"),
        ({"dtkd": {"floor": 0.49}}, None),
        ({"dtkd": {"floor": 0.5}}, "losses.dtkd.floor"),
        ({"dtkd": {"floor": 0}}, "losses.dtkd.floor"),
        ({"kd": {"weight": -1e-9}}, "losses.kd.weight"),
        ({"kd": {"temperature": 1000}}, None),
        ({"kd": {"temperature": 1001}}, "losses.kd.temperature"),
        ({"kd": {"temperature": 0}}, "losses.kd.temperature"),
        ({"abkd": {"alpha": 0, "beta": 10}}, None),
        ({"abkd": {"alpha": 10.5}}, "losses.abkd.alpha"),
        ({"kd": {}, "entropy_weights": {"temperature": 0}}, "losses.entropy_weights.temperature"),
    ],
    ids=str,
)
def test_settings_of_losses_at_their_bounds(find, losses, where):
    sections = STRONG if "mlkd" in losses else {}
    found = find(losses, schedule=NUM_EPOCHS, **sections)
    assert found.keys() - {"augmentation.strong"} == ({where} if where else set())


def test_a_warm_up_that_is_too_long_says_what_is_allowed(find):
    found = find({"kd": {}, "warmup_epochs": 20}, schedule=NUM_EPOCHS)["losses.warmup_epochs"]
    assert "is 20, more than schedule.num_epochs = 4" in found
    assert "a twelfth of the epochs" in found


@pytest.mark.parametrize(("size", "is_right"), [(1, False), (2, True), (None, False)])
def test_a_micro_batch_has_samples_to_compare(find, size, is_right):
    found = find({"dist": {}}, training={"micro_batch_size": size}, resources={"num_workers": 2})
    assert found.keys() == (set() if is_right else {"training.micro_batch_size"})


@pytest.mark.parametrize(
    ("losses", "is_right"),
    [({"ce": {}}, True), ({"ce": {"weight": 0}, "kd": {}}, False), ({"kd": {}}, False)],
)
def test_label_smoothing_needs_the_cross_entropy(find, losses, is_right):
    found = find(losses, training={"label_smoothing": 0.1})
    assert found.keys() == (set() if is_right else {"training.label_smoothing"})


@pytest.mark.parametrize(
    ("name", "parts"),
    [("dkd", ("alpha", "beta")), ("rld", ("alpha", "beta")), ("gkl", ("alpha", "beta")),
     ("dist", ("beta", "gamma")), ("ldrld", ("alpha", "beta")), ("crld", ("within", "across"))],
)  # fmt: skip
def test_one_part_of_a_loss_has_a_weight(find, name, parts):
    settings = {"top_k": 2} if name == "ldrld" else {}
    sections = STRONG if name in NEED_TWO_VIEWS else {}
    nothing = {name: {**settings, **dict.fromkeys(parts, 0)}}
    assert find(nothing, **sections).keys() == {f"losses.{name}.{parts[0]}"}
    for part in parts:
        assert find({name: {**nothing[name], part: 0.1}}, **sections) == {}


@pytest.mark.parametrize("value", [1, [], "kd"])
def test_a_loss_is_an_object(find, value):
    assert find({"kd": value})["losses.kd"] == f"is {value!r}; give an object, such as {{}}"


def test_a_loss_of_weight_0_is_no_part_of_the_hash(make_content, teacher):
    def content_hash(losses):
        return parse_spec(make_content(teacher=teacher, losses=losses)).content_hash()

    expected = content_hash({"ce": {}, "kd": {}})
    assert content_hash({"ce": {}, "kd": {}, "dkd": {"weight": 0, "beta": 3}}) == expected
    assert content_hash({"ce": {}, "kd": {}, "dkd": {"weight": 1}}) != expected
