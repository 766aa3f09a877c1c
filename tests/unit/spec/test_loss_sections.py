"""The losses of a spec: what is in force where it says nothing, and what names its mistakes."""

import pytest

from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.spec.losses import Losses

WRITTEN_OUT = {
    "ce": {"weight": 1, "views": "weak"},
    "dtkd": {
        "weight": 3,
        "base_temperature": 4,
        "sharpness": "max",
        "detach": False,
        "floor": 0.05,
        "standardize": False,
    },
    "kd": {"weight": 1, "temperature": 4, "standardize": False},
}


@pytest.fixture
def find(make_content, teacher):
    """The problems of a spec with these losses, by field."""

    def find(losses):
        with pytest.raises(BadInputError) as caught:
            parse_spec(make_content(teacher=teacher, losses=losses))
        assert all(len(str(problem).splitlines()) == 1 for problem in caught.value.problems)
        return {problem.where: problem for problem in caught.value.problems}

    return find


def test_with_a_teacher_the_losses_of_dtkd_are_the_default(make_content, teacher):
    losses = parse_spec(make_content(teacher=teacher)).effective_losses()
    assert list(losses.active) == ["ce", "dtkd", "kd"]
    assert losses.ce.weight == 1
    dtkd, kd = losses.dtkd, losses.kd
    assert (dtkd.weight, dtkd.base_temperature, dtkd.sharpness, dtkd.detach) == (3, 4, "max", False)
    assert (kd.weight, kd.temperature, kd.standardize) == (1, 4, False)
    assert losses.entropy_weights is None


def test_without_a_teacher_cross_entropy_alone_is_the_default(make_content):
    spec = parse_spec(make_content())
    assert list(spec.effective_losses().active) == ["ce"]
    assert not spec.uses_teacher


@pytest.mark.parametrize(
    ("warmup_epochs", "num_epochs", "expected"),
    [(None, 240, 20), (None, 1000, 20), (None, 120, 10), (None, 6, 0.5), (3, 240, 3), (0, 240, 0)],
)
def test_warm_up_is_20_of_240_epochs(warmup_epochs, num_epochs, expected):
    losses = Losses(kd={}, warmup_epochs=warmup_epochs)
    assert losses.warmup_epochs_of(num_epochs) == pytest.approx(expected)


def test_hash_is_that_of_the_same_losses_written_out(make_content, teacher):
    def content_hash(**sections):
        return parse_spec(make_content(**sections)).content_hash()

    assert content_hash(teacher=teacher) == content_hash(teacher=teacher, losses=WRITTEN_OUT)
    assert content_hash() == content_hash(losses={"ce": {}})
    others = [
        {**WRITTEN_OUT, "warmup_epochs": 1},
        {**WRITTEN_OUT, "kd": {"weight": 0.9}},
        {**WRITTEN_OUT, "dkd": {}},
        {"ce": {}, "dtkd": {}},
    ]
    hashes = {content_hash(teacher=teacher, losses=losses) for losses in others}
    assert len(hashes | {content_hash(teacher=teacher)}) == 5


def test_only_the_losses_that_are_given_are_in_the_total(make_content, teacher):
    spec = parse_spec(make_content(teacher=teacher, losses={"nckd": {}, "kd": {"weight": 0}}))
    assert list(spec.effective_losses().active) == ["nckd"]
    assert spec.uses_teacher
    unused = parse_spec(make_content(teacher=teacher, losses={"ce": {}, "kd": {"weight": 0}}))
    assert not unused.uses_teacher


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("dkt", "dtkd"),
        ("tckdd", "tckd"),
        ("norm_kd", "normkd"),
        ("kd.temprature", "kd.temperature"),
        ("kd.tau", "kd.temperature"),
        ("kd.T", "kd.temperature"),
        ("kd.temp", "kd.temperature"),
        ("dtkd.T", "dtkd.base_temperature"),
        ("dtkd.temperature", "dtkd.base_temperature"),
        ("dtkd.alpha", "dtkd.weight"),
        ("kd.beta", "kd.weight"),
        ("warmup", "warmup_epochs"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(find, path, meant):
    *parents, leaf = path.split(".")
    losses = {"ce": {}}
    section = losses
    for parent in parents:
        section = section.setdefault(parent, {})
    section[leaf] = 1
    found = find(losses)
    assert found.keys() == {f"losses.{path}"}
    assert found[f"losses.{path}"].remedy == f"did you mean losses.{meant}?"


@pytest.mark.parametrize("name", ["kd", "dkd", "tckd", "nckd"])
@pytest.mark.parametrize("kind", ["cosin", "number", "None", "li\nnear", 3, None, ["linear"]])
def test_an_unknown_kind_of_temperature_names_the_kinds(find, name, kind):
    found = find({name: {"temperature": {"kind": kind, "start": 4, "end": 1}}})
    assert found.keys() == {f"losses.{name}.temperature.kind"}
    remedy = found[f"losses.{name}.temperature.kind"].remedy
    assert "'linear', 'cosine', 'teacher_max' or 'dynamic'" in remedy
    assert "number" not in remedy
    if kind == "cosin":
        assert remedy.endswith("did you mean 'cosine'?")


def test_a_rule_without_a_kind_is_told_the_kinds(find):
    found = find({"kd": {"temperature": {"start": 4, "end": 1}}})["losses.kd.temperature.kind"]
    assert found.wrong == "is missing"
    assert "'linear', 'cosine', 'teacher_max' or 'dynamic'" in found.remedy


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        ({"kind": "linear", "start": 4, "end": 0}, "end"),
        ({"kind": "cosine", "start": 4, "end": -1}, "end"),
        ({"kind": "cosine", "start": 1001, "end": 1}, "start"),
        ({"kind": "linear", "start": 4}, "end"),
        ({"kind": "teacher_max", "scaled_max": 0}, "scaled_max"),
        ({"kind": "teacher_max", "minimum": 0}, "minimum"),
        ({"kind": "dynamic", "base_temperature": 0}, "base_temperature"),
        ({"kind": "dynamic", "floor": 0.5}, "floor"),
        ({"kind": "dynamic", "sharpness": "maximum"}, "sharpness"),
        ({"kind": "dynamic", "detach": "maybe"}, "detach"),
    ],
    ids=str,
)
def test_a_mistake_in_a_rule_is_named_without_its_kind(find, rule, where):
    assert find({"kd": {"temperature": rule}}).keys() == {f"losses.kd.temperature.{where}"}


@pytest.mark.parametrize("temperature", ["hot", [4], {}, None, 0, -4, float("nan")])
def test_a_temperature_that_is_none_is_named(find, temperature):
    found = find({"kd": {"temperature": temperature}})
    assert {where.removesuffix(".kind") for where in found} == {"losses.kd.temperature"}


@pytest.mark.parametrize(
    ("rule", "wrong", "meant"),
    [
        ({"kind": "linear", "start": 4, "end": 1}, "ends", "end"),
        ({"kind": "teacher_max"}, "minimun", "minimum"),
        ({"kind": "teacher_max"}, "max", "scaled_max"),
        ({"kind": "dynamic"}, "tau", "base_temperature"),
    ],
)
def test_an_unknown_field_of_a_rule_suggests_the_nearest(find, rule, wrong, meant):
    (problem,) = find({"kd": {"temperature": {**rule, wrong: 1}}}).values()
    assert problem.where == f"losses.kd.temperature.{wrong}"
    assert problem.remedy == f"did you mean losses.kd.temperature.{meant}?"


def test_a_field_of_another_rule_is_not_suggested_for_itself(find):
    rule = {"kind": "linear", "start": 4, "end": 1, "base_temperature": 4}
    (problem,) = find({"kd": {"temperature": rule}}).values()
    assert problem.where == "losses.kd.temperature.base_temperature"
    assert "kd.temperature.base_temperature" not in problem.remedy


@pytest.mark.parametrize(
    "rule",
    [
        2.5,
        {"kind": "linear", "start": 1, "end": 8},
        {"kind": "cosine", "start": 8, "end": 1},
        {"kind": "teacher_max"},
        {"kind": "dynamic", "sharpness": "logsumexp"},
    ],
    ids=str,
)
def test_rules_survive_a_stored_spec(make_content, teacher, rule):
    spec = parse_spec(make_content(teacher=teacher, losses={"dkd": {"temperature": rule}}))
    again = type(spec).model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.content_hash() == spec.content_hash()
    assert type(again.losses.dkd.temperature) is type(spec.losses.dkd.temperature)
