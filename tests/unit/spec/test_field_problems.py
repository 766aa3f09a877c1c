"""What is wrong with a field is said in the words of JSON, with what to write instead."""

import pytest

from service.compare.spec import CompareSpec
from service.spec.errors import BadInputError
from service.spec.field_problems import problems_of
from service.spec.loading import parse_spec

NAME = "letters, digits, dots, _ and -, of which the first is a letter or digit"


@pytest.mark.parametrize(
    ("sections", "where", "text"),
    [
        ({"training": 3}, "training", "is 3; give an object, such as {}"),
        (
            {"tracking": {"register_as": "m", "promote": "champion"}},
            "tracking.promote",
            """is 'champion'; give an object, such as {"alias": "..."}""",
        ),
        (
            {"tracking": {"checkpoints": {"keep": 3}}},
            "tracking.checkpoints.keep",
            "is not a field of the spec; did you mean tracking.checkpoints.newest?",
        ),
        ({"training": None}, "training", "is null; give an object, such as {}"),
        ({"schedule": {"milestones": 3}}, "schedule.milestones", "is 3; give a list, such as []"),
        ({"name": "a b"}, "name", f"is 'a b'; use 1 to 100 {NAME}"),
        ({"seed": "0"}, "seed", "is '0'; give an integer, without quotes"),
        ({"seed": True}, "seed", "is true; give an integer, without quotes"),
        ({"seed": -1}, "seed", "is -1; give a number greater than or equal to 0"),
        ({"optimizer": {"momentum": [1]}}, "optimizer.momentum", "is [1]; give a number, without"),
        ({"optimizer": {"nesterov": 1}}, "optimizer.nesterov", "is 1; give true or false"),
        ({"tracking": {"experiment": 1}}, "tracking.experiment", "is 1; give a text in quotes"),
        ({"dataset": {"train": ""}}, "dataset.train", "is ''; give a text that is not empty"),
        (
            {"schedule": {"kind": "x" * 200}},
            "schedule.kind",
            f"is '{'x' * 49} ... {'x' * 49}'; use 'multistep', 'cosine', 'linear', "
            f"'poly' or 'one_cycle'",
        ),
    ],
    ids=str,
)
def test_problems_are_in_the_words_of_json(make_content, sections, where, text):
    with pytest.raises(BadInputError) as caught:
        parse_spec(make_content(**sections))
    found = {problem.where: str(problem) for problem in caught.value.problems}
    assert found[where].startswith(f"{where}: {text}")


def test_fields_of_words_and_numbers_name_both(make_content, teacher):
    with pytest.raises(BadInputError) as caught:
        parse_spec(make_content(teacher={**teacher, "size": "teacher", "classes": "by_nme"}))
    found = {problem.where: problem.remedy for problem in caught.value.problems}
    assert found["teacher.size"] == "use 'student', or a number of pixels"
    assert found["teacher.classes"].startswith("use 'by_name', or a list: the teacher's index")
    assert "did you mean" not in found["teacher.classes"]


def test_names_of_variants_are_shorter():
    with pytest.raises(ValueError, match="variants") as caught:
        CompareSpec.model_validate({"variants": {"a/b": {}}})
    found = {problem.where: problem.remedy for problem in problems_of(caught.value, CompareSpec)}
    assert found["variants.a/b"] == f"use 1 to 40 {NAME}"


@pytest.mark.parametrize("name", ["", "a\nb", "a\u2028b", "a\x07"])
def test_a_bad_name_of_a_model_is_one_problem(make_content, name):
    tracking = {"register_as": name, "promote": {"alias": "champion"}}
    with pytest.raises(BadInputError) as caught:
        parse_spec(make_content(tracking=tracking))
    assert [problem.where for problem in caught.value.problems] == ["tracking.register_as"]
