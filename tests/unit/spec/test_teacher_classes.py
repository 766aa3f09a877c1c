"""A teacher of more classes: which of them are the dataset's, by name or by index."""

import json

import pytest
import torch
from support.teachers import WNIDS, write_named_datasets, write_teacher

from data_pipeline.sources.image_labels import human_names
from jobs.distill import main
from service.models.build import build_model
from service.spec.errors import BadInputError
from service.spec.identity import fixed_differences
from service.spec.loading import parse_spec
from service.spec.teacher_classes import match_names
from service.spec.template import format_spec

AUGMENTATION = {"crop": "random_resized", "size": 12}
OF_IMAGENET = (0, 217, 482, 491)
IN_FULL = {"model": "resnet18", "weights": {"source": "torchvision:IMAGENET1K_V1"}}


def problem_of(content, where="teacher.classes"):
    with pytest.raises(BadInputError) as caught:
        parse_spec(content)
    (problem,) = caught.value.problems
    assert problem.where == where
    return str(problem)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_named_datasets(tmp_path_factory.mktemp("wnids"), WNIDS)


@pytest.fixture
def make(make_content, dataset):
    """Content of a spec over four of ImageNet's classes, with this teacher."""

    def make(teacher, **sections):
        sections = {"dataset": dataset, "augmentation": AUGMENTATION, **sections}
        return make_content(teacher=teacher, **sections)

    return make


def test_published_weights_have_imagenets_order(make):
    teacher = parse_spec(make({**IN_FULL, "classes": "by_name"})).teacher
    assert (teacher.classes, teacher.num_classes) == (OF_IMAGENET, 1000)


def test_file_of_1000_classes_has_imagenets_order(make, tmp_path):
    teacher = {**write_teacher(tmp_path / "t.safetensors", 1000), "classes": "by_name"}
    found = parse_spec(make(teacher)).teacher
    assert (found.classes, found.num_classes) == (OF_IMAGENET, 1000)


@pytest.mark.parametrize(
    "names",
    [
        {"classes": ["x", *reversed(WNIDS)]},
        {"classes": ["x", "Chain_Saw", "cassette player", "English Springer", "TENCH"]},
        {"classes": list("abcde"), "class_names": ["a", "chain saw", "cassette player",
                                                   "English springer", "tench"]},
    ],
    ids=["wnids", "names", "readable names"],
)  # fmt: skip
def test_students_file_is_matched_by_its_card(make, tmp_path, names):
    teacher = write_teacher(tmp_path / "t.safetensors", 5, **names)
    found = parse_spec(make({**teacher, "classes": "by_name"})).teacher
    assert (found.classes, found.num_classes) == ((4, 3, 2, 1), 5)


def test_same_classes_in_another_order_are_permuted_by_name_only(make, tmp_path):
    teacher = write_teacher(tmp_path / "t.safetensors", 4, classes=list(reversed(WNIDS)))
    text = problem_of(make(teacher), "teacher.weights.source")
    assert "has label 0 for n03000684, but in the dataset it is n01440764" in text
    assert text.endswith('or set teacher.classes to "by_name"')
    assert parse_spec(make({**teacher, "classes": "by_name"})).teacher.classes == (3, 2, 1, 0)


def test_teacher_of_other_classes_is_refused(make, tmp_path):
    """Unless a list says which they are: names are not compared then."""
    names = ["airplane", "tench", "bird", "chain saw"]
    teacher = write_teacher(tmp_path / "t.safetensors", 4, classes=names)
    text = problem_of(make(teacher), "teacher.weights.source")
    assert "lacks n02102040, n02979186, 2 of the dataset's 4 classes; use a teacher of" in text
    assert "set teacher.classes: give a list" in text
    others = {**IN_FULL, "classes": "by_name", "others": [teacher]}
    assert problem_of(make(others), "teacher.others.0.weights.source").endswith("in label order")
    assert parse_spec(make({**teacher, "classes": [1, 0, 2, 3]})).teacher.classes == (1, 0, 2, 3)


@pytest.mark.parametrize(
    "names",
    [["tench", "English_springer", "Cassette Player", "chain saw"], list("0123")],
    ids=["readable names", "numbers"],
)
def test_same_classes_under_other_names_are_accepted(make, tmp_path, names):
    teacher = write_teacher(tmp_path / "t.safetensors", 4, classes=names)
    assert parse_spec(make(teacher)).teacher.classes is None


def test_order_of_classes_under_other_names_is_compared(make, tmp_path):
    names = ["tench", "chain saw", "cassette player", "English springer"]
    teacher = write_teacher(tmp_path / "t.safetensors", 4, classes=names)
    text = problem_of(make(teacher), "teacher.weights.source")
    assert "has label 1 for chain saw, but in the dataset it is n02102040" in text


def test_student_may_start_from_weights_of_other_classes(make, tmp_path):
    student = write_teacher(tmp_path / "s.safetensors", 4, classes=list("abcd"))
    assert parse_spec(make(IN_FULL | {"classes": "by_name"}, student=student)).student.weights


def test_indices_need_no_names(make_content, tmp_path):
    teacher = {**write_teacher(tmp_path / "t.safetensors", 7), "classes": [6, 0, 3, 1]}
    found = parse_spec(make_content(teacher=teacher)).teacher
    assert (found.classes, found.num_classes) == ((6, 0, 3, 1), 7)


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        ([0, 1, 2], "has 3 indices, but dataset.num_classes is 4; give a list"),
        ([0, 1, 2, 7], "has 7, but the teacher has 7 classes; use indices from 0 to 6"),
        ([0, 1, 2, 1], "has 1 more than once; give each index once"),
        ("by_name", "does not name its classes; give a list"),
        ("by name", "is 'by name'; use 'by_name', or a list: the teacher's index of each"),
    ],
    ids=str,
)
def test_classes_that_do_not_fit_are_refused(make, tmp_path, classes, text):
    teacher = {**write_teacher(tmp_path / "t.safetensors", 7), "classes": classes}
    assert text in problem_of(make(teacher))


@pytest.mark.parametrize(
    ("index", "text"),
    [
        (-1, "is -1; give a number greater than or equal to 0"),
        ("a", "is 'a'; give an integer, without quotes"),
        (1.5, "is 1.5; give an integer"),
    ],
)
def test_indices_are_numbers_from_0(make, index, text):
    found = problem_of(make({**IN_FULL, "classes": [0, 1, 2, index]}), "teacher.classes.3")
    assert found.startswith(f"teacher.classes.3: {text}")


def test_missing_classes_are_named(make, tmp_path):
    names = ["tench", *"abcd"]
    teacher = write_teacher(tmp_path / "t.safetensors", 5, classes=names)
    text = problem_of(make({**teacher, "classes": "by_name"}))
    assert "the teacher lacks n02102040, n02979186, n03000684, 3 of 4 classes; use a" in text


def test_dataset_without_names_is_refused(make_content):
    teacher = {**IN_FULL, "classes": "by_name"}
    assert "train.beton has no manifest that names its classes" in problem_of(
        make_content(teacher=teacher)
    )


def test_dataset_of_more_classes_than_names_is_refused(make, dataset):
    content = make({**IN_FULL, "classes": "by_name"}, dataset={**dataset, "num_classes": 5})
    assert "names 4 classes and dataset.num_classes is 5" in problem_of(content)


def test_number_of_classes_must_be_that_of_the_weights(make, tmp_path):
    teacher = {**write_teacher(tmp_path / "t.safetensors", 7), "classes": [0, 1, 2, 3]}
    text = problem_of(make({**teacher, "num_classes": 8}), "teacher.num_classes")
    assert "is 8, but " in text
    assert "t.safetensors has 7 classes; remove it" in text


def test_wrong_number_of_classes_is_named_where_names_of_tensors_differ(make, tmp_path):
    """By order, the last tensor need not be the classifier's, but one of 1,000 classes is."""
    torch.save(build_model("cifar:resnet8", 1000).state_dict(), tmp_path / "t.pth")
    weights = {"source": str(tmp_path / "t.pth"), "match": "order"}
    teacher = {"model": "cifar:resnet8", "weights": weights, "classes": "by_name"}
    assert parse_spec(make(teacher)).teacher.classes == OF_IMAGENET
    text = problem_of(make({**teacher, "num_classes": 999}), "teacher.num_classes")
    assert "is 999, but" in text
    assert "has 1000 classes; remove it" in text


def test_spec_with_every_field_of_published_weights_is_valid(make):
    spec = parse_spec(make({**IN_FULL, "classes": "by_name"}))
    assert parse_spec(json.loads(spec.model_dump_json())) == spec


def test_new_spec_takes_the_classes_of_a_file(capsys, dataset, tmp_path):
    files = ["--train", dataset["train"], "--val", dataset["val"], "--storage", str(tmp_path)]
    for num_classes, classes in ((1000, list(OF_IMAGENET)), (4, None)):
        teacher = write_teacher(tmp_path / "t.safetensors", num_classes)
        options = ["--teacher", teacher["model"], "--weights", teacher["weights"]["source"]]
        assert main(["--new", *files, "--student", "resnet18", *options]) == 0
        found = json.loads(capsys.readouterr().out)["teacher"]
        assert found.get("classes") == classes


def test_new_spec_takes_published_weights_of_timms_networks_by_order(capsys, dataset, tmp_path):
    """As of EfficientNet-Lite, whose tensors have other names than in timm."""
    tensors = {"first.kernel": torch.zeros(3, 2), "last.kernel": torch.zeros(1000, 3)}
    tensors["last.offset"] = torch.zeros(1000)
    torch.save(tensors, tmp_path / "t.pth")
    files = ["--train", dataset["train"], "--val", dataset["val"], "--storage", str(tmp_path)]
    options = ["--teacher", "timm:tf_efficientnet_lite0", "--weights", str(tmp_path / "t.pth")]
    assert main(["--new", *files, "--student", "resnet18", *options]) == 0
    found = json.loads(capsys.readouterr().out)["teacher"]
    assert found["weights"]["match"] == "order"
    assert found["classes"] == list(OF_IMAGENET)


@pytest.mark.parametrize(
    ("field", "where"),
    [({}, "teacher.weights.source"), ({"num_classes": 1000}, "teacher.num_classes")],
    ids=str,
)
def test_remedy_for_a_teacher_of_more_classes_is_by_name(make, field, where):
    content = make({**IN_FULL, **field})
    with pytest.raises(BadInputError) as caught:
        parse_spec(content)
    remedies = {problem.where: problem.remedy for problem in caught.value.problems}
    assert 'set teacher.classes to "by_name"' in remedies[where]


def test_student_of_more_classes_is_not_told_to(make):
    student = {"model": "resnet18", "weights": {"source": "torchvision:IMAGENET1K_V1"}}
    content = make(None, student=student)
    assert "by_name" not in problem_of(content, "student.weights.source")


DOG, GARMENT = "n02113186", "n02963159"


def test_two_classes_of_one_name_are_told_apart_by_their_wnids():
    names, readable = (GARMENT, DOG, "n01440764"), ("cardigan", "Cardigan", "tench")
    assert match_names("where", ("tench", DOG), names, readable) == (2, 1)


@pytest.mark.parametrize(
    ("wanted", "names", "text"),
    [
        (["cardigan"], (GARMENT, DOG), "has 2 classes named cardigan: 0, 1"),
        ([DOG], (GARMENT, "x"), f"lacks {DOG}, 1 of 1 classes"),
        ([DOG, GARMENT], ("cardigan", "x"), f"{DOG} and {GARMENT} are one class"),
        (["a_b", "A B"], ("a b", "x"), "a_b and A B are one class"),
        (list("abcdef"), ("a", "x"), "lacks b, c, d and 2 more, 5 of 6 classes"),
    ],
    ids=str,
)
def test_classes_that_names_do_not_tell_apart_are_named(wanted, names, text):
    with pytest.raises(BadInputError) as caught:
        match_names("teacher.classes", wanted, names, human_names(names))
    assert text in str(caught.value)


def test_run_is_bound_to_the_indices(make, tmp_path):
    """What names mean may change with the names; then it is another run."""
    names = ["x", *WNIDS]
    path = tmp_path / "t.safetensors"
    content = make({**write_teacher(path, 5, classes=names), "classes": "by_name"})
    old = parse_spec(content)
    for same in ({"num_classes": 5}, {"classes": [1, 2, 3, 4]}):
        assert parse_spec(make({**content["teacher"], **same})).content_hash() == old.content_hash()

    write_teacher(path, 5, classes=[*WNIDS, "x"])
    new = parse_spec(content)
    assert fixed_differences(old, new) == ["teacher.classes"]
    assert old.content_hash() != new.content_hash()


def test_resolved_spec_is_a_spec_of_its_own(make):
    """As trials and workers read it, and where it is not known any more what names meant."""
    spec = parse_spec(make({**IN_FULL, "classes": "by_name"}))
    again = json.loads(spec.model_dump_json(exclude_unset=True))
    assert parse_spec(again) == spec


def test_new_spec_takes_the_classes_of_published_weights(capsys, dataset, tmp_path):
    files = ["--train", dataset["train"], "--val", dataset["val"], "--storage", str(tmp_path)]
    weights = ["--teacher", "resnet34", "--weights", "torchvision:IMAGENET1K_V1"]
    assert main(["--new", *files, "--student", "resnet18", *weights]) == 0
    assert parse_spec(json.loads(capsys.readouterr().out)).teacher.classes == OF_IMAGENET


def test_printed_spec_of_several_teachers_is_valid(make):
    """Published weights have none of the fields that files may need."""
    teacher = {**IN_FULL, "classes": "by_name", "others": [{**IN_FULL, "classes": "by_name"}]}
    spec = parse_spec(make(teacher))
    again = parse_spec(json.loads(format_spec(spec)))
    assert again.teacher == spec.teacher
