"""A spec whose training images have no labels: what is refused, and what replaces the labels."""

import json

import pytest
from support.image_makers import converted, write_folder
from support.teachers import write_teacher

from jobs.convert import main as convert
from jobs.distill import main as distill
from service.plan import make_plan
from service.spec.errors import BadInputError
from service.spec.loading import parse_job, parse_spec
from service.spec.losses import Losses
from service.sweep.loading import parse_sweep

UNLABELED = {"dataset": {"unlabeled": True}}
NEED_LABELS = {"ce", "dkd", "tckd", "nckd", "nkd", "rld", "gkl", "wkd"}
NEED_TWO_VIEWS = {"mlkd", "crld"}
NAMES = sorted(Losses.model_fields.keys() - {"entropy_weights", "warmup_epochs"})


@pytest.fixture
def find(make_content, teacher):
    """The problems of a spec without labels, by field."""

    def find(**sections):
        sections = {"teacher": teacher, **sections}
        dataset = {**UNLABELED["dataset"], **sections.pop("dataset", {})}
        try:
            parse_spec(make_content(dataset=dataset, **sections))
        except BadInputError as error:
            return {problem.where: str(problem) for problem in error.problems}
        return {}

    return find


@pytest.fixture
def image_content(make_content, teacher, tmp_path):
    """A spec over a file that was converted without labels, and labeled images of 4 classes."""
    folder = write_folder(tmp_path / "images", 4, 20)
    converted(folder, tmp_path / "val.beton")
    assert convert([str(folder), str(tmp_path / "train.beton"), "--unlabeled"]) == 0
    files = {split: str(tmp_path / f"{split}.beton") for split in ("train", "val")}
    augmentation = {"crop": "random_resized", "size": 16}

    def make(**dataset):
        dataset = {**files, **dataset}
        return make_content(dataset=dataset, teacher=teacher, augmentation=augmentation)

    return make


def test_images_without_labels_are_one_problem(image_content, tmp_path):
    """Not also that a teacher's classes have other names than "unlabeled"."""
    content = image_content()
    save = {**write_teacher(tmp_path / "t.safetensors", 4, classes=list("abcd"))}
    for classes in (None, "by_name"):
        with pytest.raises(BadInputError) as caught:
            parse_spec({**content, "teacher": {**save, "classes": classes}})
        (problem,) = caught.value.problems
        assert problem.where == "dataset.train"
        assert problem.remedy.startswith("set dataset.unlabeled to true")


def test_one_image_is_no_source(tmp_path, capsys):
    folder = write_folder(tmp_path / "images", 1, 1)
    (image,) = (path for path in folder.rglob("*") if path.is_file())
    assert convert([str(image), str(tmp_path / "a.beton"), "--unlabeled"]) == 2
    assert "is an image; give a folder of images" in capsys.readouterr().err
    assert convert([str(folder), str(tmp_path / "a.beton"), "--unlabeled"]) == 0
    assert ": 1 image without labels, " in capsys.readouterr().out


def test_the_default_losses_are_those_of_dtkd_without_the_cross_entropy(make_content, teacher):
    losses = parse_spec(make_content(**UNLABELED, teacher=teacher)).effective_losses()
    assert {name: one.weight for name, one in losses.active.items()} == {"dtkd": 3.0, "kd": 1.0}


@pytest.mark.parametrize("name", NAMES)
def test_losses_that_need_labels_are_refused(find, name):
    sections = {"augmentation": {"strong": {}}} if name in NEED_TWO_VIEWS else {}
    losses = {name: {"top_k": 2} if name == "ldrld" else {}}
    found = find(losses=losses, **sections)
    assert found.keys() == ({f"losses.{name}"} if name in NEED_LABELS else set())


def test_a_loss_of_weight_0_and_entropy_weights_need_no_labels(find):
    assert find(losses={"ce": {"weight": 0}, "kd": {}, "entropy_weights": {}}) == {}


def test_a_teacher_is_needed(find):
    assert "add the teacher" in find(teacher=None)["teacher"]


@pytest.mark.parametrize("losses", [None, {"kd": {}}])
def test_label_smoothing_is_refused(find, losses):
    found = find(losses=losses, training={"label_smoothing": 0.1})
    assert found.keys() == {"training.label_smoothing"}
    assert found["training.label_smoothing"].endswith("; remove it")


def test_held_out_images_need_labels(find):
    found = find(dataset={"held_out": {"num_images": 64}})
    assert found.keys() == {"dataset.held_out"}
    assert "these have no labels" in found["dataset.held_out"]


def test_a_sweep_is_refused(make_sweep_content):
    content = make_sweep_content(base=UNLABELED)
    with pytest.raises(BadInputError) as caught:
        parse_sweep(content)
    assert [problem.where for problem in caught.value.problems] == ["held_out"]


def test_a_file_without_labels_is_valid_and_its_classes_are_those_of_val(image_content):
    job = parse_job(image_content(unlabeled=True))
    assert job.train.is_unlabeled
    assert job.classes == job.val.classes == ("class0", "class1", "class2", "class3")
    assert not [line for line in make_plan(job).warnings if "classes" in line]


def test_a_teacher_of_more_classes_is_matched_by_the_names_of_val(image_content, tmp_path):
    names = ["other", "class2", "class0", "class3", "class1"]
    network = write_teacher(tmp_path / "more.safetensors", 5, classes=names, class_names=names)
    content = image_content(unlabeled=True) | {"teacher": {**network, "classes": "by_name"}}
    assert parse_spec(content).teacher.classes == (2, 4, 1, 3)


def test_a_file_without_labels_needs_the_field(image_content):
    with pytest.raises(BadInputError) as caught:
        parse_spec(image_content())
    (problem,) = caught.value.problems
    assert problem.where == "dataset.train"
    assert "set dataset.unlabeled to true" in problem.remedy


def test_val_must_have_labels(image_content, tmp_path):
    content = image_content(unlabeled=True, val=str(tmp_path / "train.beton"))
    with pytest.raises(BadInputError) as caught:
        parse_spec(content)
    (problem,) = caught.value.problems
    assert (problem.where, problem.remedy) == ("dataset.val", "convert labeled images")


def test_labels_of_train_are_not_checked(find, tmp_path):
    """Labels 0 to 5 of classes that val does not have; dataset.num_classes is 4."""
    converted(write_folder(tmp_path / "others", 6, 20), tmp_path / "others.beton")
    augmentation = {"crop": "random_resized", "size": 16}
    dataset = {"train": str(tmp_path / "others.beton")}
    assert find(dataset=dataset, augmentation=augmentation) == {}
    assert (
        "labels 0 to 5"
        in find(dataset={**dataset, "unlabeled": False}, augmentation=augmentation)["dataset.train"]
    )


def test_new_writes_a_valid_spec_with_the_classes_of_val(image_content, teacher, tmp_path, capsys):
    image_content()
    capsys.readouterr()
    arguments = ["--train", tmp_path / "train.beton", "--val", tmp_path / "val.beton"]
    arguments += ["--student", "cifar:tiny_cnn", "--teacher", teacher["model"]]
    arguments += ["--weights", teacher["weights"]["source"], "--storage", tmp_path / "runs"]
    assert distill(["--new", *map(str, arguments)]) == 0
    content = json.loads(capsys.readouterr().out)
    manifest = json.loads((tmp_path / "val.beton.json").read_text())
    assert content["dataset"]["unlabeled"] is True
    assert content["dataset"]["num_classes"] == 4
    assert content["dataset"]["normalization"]["mean"] == manifest["pixels"]["mean"]
    assert content["losses"].keys() & NAMES == {"dtkd", "kd"}
    assert parse_spec(content).dataset.unlabeled


def test_published_settings_need_labels(image_content, tmp_path, capsys):
    image_content()
    files = ["--train", tmp_path / "train.beton", "--val", tmp_path / "val.beton"]
    recipe = ["--recipe", "cifar100/resnet56-resnet20/none"]
    assert distill(["--new", *recipe, *map(str, files)]) == 2
    assert "images without labels" in capsys.readouterr().err
