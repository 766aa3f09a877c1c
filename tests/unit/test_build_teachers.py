"""Teachers of several networks and of more classes, whose weights the driver fetches."""

import json
import shutil
from pathlib import Path

import pytest
from support.teachers import WNIDS, write_named_datasets, write_teacher

from service import build
from service.build import build_job
from service.plan import format_plan, make_plan
from service.run.claim import check_inputs
from service.run.folder import write_spec, write_tags
from service.run.journal import JOURNAL_NAME, Journal
from service.spec.errors import BadInputError
from service.spec.loading import parse_job
from service.spec.teacher_classes import classes_tags, with_resolved_classes
from service.spec.weights_metadata import read_card
from service.tracking import job_check
from service.tracking.weights_source import FoundWeights

URI = "models:/teacher@champion"
NAMES = ["x", *reversed(WNIDS)]
SECTION = {"model": "cifar:resnet8", "weights": {"source": URI}, "classes": "by_name"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_named_datasets(tmp_path_factory.mktemp("wnids"), WNIDS)


@pytest.fixture
def make_job(make_content, dataset):
    """A job over four of ImageNet's classes, whose folder exists."""

    def make(teacher):
        augmentation = {"crop": "random_resized", "size": 12}
        job = parse_job(make_content(dataset=dataset, augmentation=augmentation, teacher=teacher))
        job.spec.run_path.mkdir(parents=True, exist_ok=True)
        return job

    return make


@pytest.fixture
def fetches(monkeypatch, tmp_path):
    """The fields that were fetched for; what is fetched are a student's weights of five classes."""
    path, fields = tmp_path / "student.safetensors", []
    write_teacher(path, 5, classes=NAMES)

    def download(uri, folder, where):
        fields.append(where)
        return Path(shutil.copy(path, folder))

    monkeypatch.setattr(build, "download_weights", download)
    return fields


def test_fetched_weights_keep_the_names_of_their_classes(make_job, fetches):
    job = make_job(SECTION)
    assert job.spec.teacher.classes == "by_name"
    built = build_job(job.spec)
    trained = with_resolved_classes(built.spec, job.train.classes)
    assert read_card(Path(trained.teacher.weights.source))["classes"] == NAMES
    assert (trained.teacher.classes, trained.teacher.num_classes) == ((4, 3, 2, 1), 5)
    # As a trial of a sweep reads it, which has the sweep's weights.
    trial = json.loads(built.spec.model_dump_json(exclude_unset=True))
    assert parse_job(trial).spec.teacher == trained.teacher


def test_resumed_run_has_the_same_classes_without_fetching(make_job, fetches):
    job = make_job(SECTION)
    first = build_job(job.spec)
    write_spec(job.spec)
    write_tags(job.spec.run_path, first.digests)
    Journal(job.spec.run_path / JOURNAL_NAME, 10**6).append("interval", 1, 0, {})
    assert build_job(job.spec) == first
    assert fetches == ["teacher.weights.source"]


def test_run_is_bound_to_what_the_names_meant(make_job, fetches):
    """The images of a dataset may be the same, and its classes have other names."""
    job = make_job(SECTION)
    built = build_job(job.spec)

    def digests(names):
        return {**built.digests, **classes_tags(with_resolved_classes(built.spec, names))}

    write_spec(job.spec)
    write_tags(job.spec.run_path, digests(WNIDS))
    Journal(job.spec.run_path / JOURNAL_NAME, 10**6).append("interval", 1, 0, {})
    check_inputs(job.spec, digests(WNIDS))
    with pytest.raises(BadInputError) as caught:
        check_inputs(job.spec, digests((*WNIDS[:3], "x")))
    (problem,) = caught.value.problems
    assert problem.where == "teacher.classes"


def test_each_network_is_fetched_and_has_a_digest(make_job, fetches):
    built = build_job(make_job({**SECTION, "others": [SECTION]}).spec)
    assert fetches == ["teacher.weights.source", "teacher.others.0.weights.source"]
    assert built.digests.keys() == {"teacher_sha256", "teacher_others_0_sha256"}
    assert Path(built.spec.teacher.others[0].weights.source).is_file()


@pytest.mark.parametrize(
    ("card", "where", "text"),
    [
        ({"num_classes": 5, "classes": NAMES}, None, ""),
        ({"num_classes": 1000}, None, ""),
        ({}, None, ""),
        ({"num_classes": 2, "classes": ["a", "b"]}, "classes", "lacks n01440764, n02102040, n0"),
        ({"num_classes": 5}, "classes", "does not name its classes"),
        ({"num_classes": 5, "classes": None}, "classes", "does not name its classes"),
    ],
    ids=str,
)
def test_classes_in_mlflow_are_checked_before_they_are_fetched(
    make_job, monkeypatch, card, where, text
):
    found = FoundWeights("uri", "version 1", 10, card)
    monkeypatch.setattr(job_check, "ask", lambda *_: found)
    monkeypatch.setattr(job_check, "is_new_database", lambda _: False)
    job = make_job(SECTION)
    if where is None:
        (line,) = job_check.check_weights(job)
        assert line.startswith(f"teacher weights: {URI} is version 1")
        return
    with pytest.raises(BadInputError) as caught:
        job_check.check_weights(job)
    (problem,) = caught.value.problems
    assert problem.where == f"teacher.{where}"
    assert text in problem.wrong


def test_plan_says_what_the_teachers_are(make_job, tmp_path):
    section = {**write_teacher(tmp_path / "t.safetensors", 5, classes=NAMES), "classes": "by_name"}
    other = {**section, "classes": [0, 1, 2, 4], "size": 32, "weight": 2}
    teacher = {**section, "size": "student", "others": [other], "mean_of": "probabilities"}
    plan = make_plan(make_job(teacher))
    lines = format_plan(plan).splitlines()
    assert "teacher cifar:resnet8: 4 of its 5 classes: 4, 3, 2, 1" in lines
    assert "teacher.others.0 cifar:resnet8: 4 of its 5 classes: 0, 1, 2, 4" in lines
    assert "mean of the probabilities of teacher 1, teacher.others.0 2" in lines
    first, second = plan.models[1:]
    assert (first.image_size, second.image_size) == (12, 32)
    assert second.flops_per_image > 4 * first.flops_per_image
    assert any(f"{second.flops_per_image / 1e9:.3f} GFLOPs per image of 32 px" in x for x in lines)


def test_size_that_a_network_cannot_take_is_its_own(make_job, tmp_path):
    teacher = write_teacher(tmp_path / "t.safetensors", 4, model="timm:vit_tiny_patch16_224")
    with pytest.raises(BadInputError) as caught:
        make_plan(make_job(teacher))
    (problem,) = caught.value.problems
    assert problem.where == "teacher.model"
    assert problem.remedy == "set teacher.size to a size that it accepts"
    make_plan(make_job({**teacher, "size": 224}))
