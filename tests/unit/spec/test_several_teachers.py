"""Several teachers in a spec: whatever holds for one network holds for each."""

from pathlib import Path

import pytest
from support.teachers import write_teacher

from service.run.claim import changed_inputs, check_resumable, input_tags
from service.run.folder import write_spec, write_tags
from service.run.journal import JOURNAL_NAME, Journal
from service.spec.errors import BadInputError
from service.spec.identity import fixed_differences
from service.spec.loading import parse_job, parse_spec
from service.spec.weights_metadata import weights_notes


def problems_of(content):
    with pytest.raises(BadInputError) as caught:
        parse_spec(content)
    return {problem.where: str(problem) for problem in caught.value.problems}


@pytest.fixture
def make(make_content, teacher, tmp_path):
    """Content of a spec with two teachers; fields of the second one, and sections."""
    other = write_teacher(tmp_path / "other.safetensors", 4, seed=1)

    def make(fields=None, **sections):
        others = [{**other, **(fields or {})}]
        return make_content(teacher={**teacher, "others": others}, **sections)

    return make


@pytest.mark.parametrize(
    ("fields", "where", "text"),
    [
        ({"model": "resnet81"}, "model", "resnet18"),
        ({"weights": {"source": "missing.pth"}}, "weights.source", "missing.pth does not exist"),
        ({"weights": {"source": "~nobody9/t"}}, "weights.source", "nobody9"),
        ({"weights": {"source": "models:/"}}, "weights.source", ""),
        ({"num_classes": 3}, "num_classes", "is 3 but dataset.num_classes is 4"),
        ({"classes": [0, 1, 2, 9]}, "classes", "has 9, but the teacher has 4 classes"),
        ({"weight": 0}, "weight", "greater than 0"),
        ({"size": 4}, "size", "greater than or equal to 8"),
        ({"size": "big"}, "size", "use 'student'"),
        ({"weigth": 2}, "weigth", "did you mean teacher.others.0.weight?"),
        ({"others": []}, "others", "is not a field"),
    ],
    ids=str,
)
def test_problem_has_the_path_of_its_network(make, fields, where, text):
    found = problems_of(make(fields))
    assert found.keys() == {f"teacher.others.0.{where}"}
    assert text in found[f"teacher.others.0.{where}"]


def test_teachers_of_other_classes_are_refused(make, tmp_path):
    more = write_teacher(tmp_path / "more.safetensors", 7)
    text = problems_of(make(more))["teacher.others.0.weights.source"]
    assert "has a classifier for 7 classes; dataset.num_classes is 4" in text
    assert 'set teacher.others.0.classes to "by_name"' in text


def test_loss_that_reads_a_classifier_needs_one_teacher(make):
    text = problems_of(make(losses={"wkd": {}, "ce": {}}))["losses.wkd"]
    assert "there are several (teacher.others)" in text


@pytest.mark.parametrize(("field", "value"), [("weight", 2), ("mean_of", "probabilities")])
def test_mean_of_one_teacher_is_refused(make_content, teacher, field, value):
    found = problems_of(make_content(teacher={**teacher, field: value}))
    assert "add teacher.others" in found[f"teacher.{field}"]


def test_paths_are_absolute(make, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    spec = parse_spec(make({"weights": {"source": "other.safetensors"}}))
    assert spec.teacher.others[0].weights.source == str(tmp_path / "other.safetensors")
    assert list(spec.networks()) == ["student", "teacher", "teacher.others.0"]


def test_run_is_bound_to_the_content_of_each_file(make, tmp_path):
    job = parse_job(make())
    tags = input_tags(job)
    assert {"teacher_sha256", "teacher_others_0_sha256"} <= tags.keys()
    job.spec.run_path.mkdir(parents=True)
    write_spec(job.spec)
    write_tags(job.spec.run_path, tags)
    Journal(job.spec.run_path / JOURNAL_NAME, 10**6).append("interval", 1, 0, {})

    moved = Path(job.spec.teacher.others[0].weights.source).rename(tmp_path / "moved.safetensors")
    moved_job = parse_job(make({"weights": {"source": str(moved)}}))
    check_resumable(moved_job)

    write_teacher(moved, 4, seed=2)
    (problem,) = changed_inputs(tags, input_tags(moved_job), "run")
    assert problem.where == "teacher.others.0.weights.source"
    assert tags["teacher_others_0_sha256"] in problem.wrong


@pytest.mark.parametrize("field", ["weight", "size", "classes"])
def test_changed_field_of_a_network_makes_another_run(make, field):
    value = {"weight": 2.0, "size": 32, "classes": [3, 2, 1, 0]}[field]
    old, new = parse_spec(make()), parse_spec(make({field: value}))
    assert f"teacher.others.0.{field}" in fixed_differences(old, new)
    assert old.content_hash() != new.content_hash()


def test_weights_of_each_network_are_looked_up(make):
    assert not parse_spec(make()).has_mlflow_weights
    assert parse_spec(make({"weights": {"source": "models:/t@a"}})).has_mlflow_weights
    assert weights_notes(parse_spec(make())) == []


@pytest.mark.parametrize(
    ("size", "in_training", "in_evaluation"),
    [(None, 24, 24), ("student", 16, 24), (32, 32, 32)],
    ids=str,
)
def test_size_of_a_teachers_images(make, size, in_training, in_evaluation):
    fields = {} if size is None else {"size": size}
    spec = parse_spec(make(fields, evaluation={"resize_size": 24, "crop_size": 24}))
    assert spec.input_size("teacher.others.0", 16) == in_training
    assert spec.image_sizes_of("teacher.others.0") == {in_training, in_evaluation}
    assert spec.image_sizes_of("student") == spec.image_sizes == {16, 24}
