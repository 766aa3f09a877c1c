"""Specs that nobody would write by hand: refused in time, in lines that can be read."""

import json
import time

import pytest

from data_pipeline.uris import redacted
from service.spec.errors import MAX_PROBLEMS, BadInputError, Problem
from service.spec.loading import load_job, parse_spec
from service.spec.secrets import path_argument
from service.sweep.loading import parse_sweep

MAX_S = 2.0
LONG_NAME = "x" * 256
LONG_PATH = "/x" * 2100


def refused(call, *arguments):
    """The error of a call, which comes in time."""
    start_s = time.process_time()
    with pytest.raises(BadInputError) as caught:
        call(*arguments)
    assert time.process_time() - start_s < MAX_S
    return caught.value


def test_many_unknown_fields_are_refused_in_time(make_content, tmp_path):
    path = tmp_path / "spec.json"
    training = {f"batch_size_{number}": number for number in range(30_000)}
    path.write_text(json.dumps(make_content(training=training)))
    error = refused(load_job, path)
    assert len(error.problems) == MAX_PROBLEMS
    assert str(error).endswith("and 29,950 more; fix these first")
    assert error.problems[0].remedy == "did you mean evaluation.batch_size?"


def test_field_that_is_given_many_times_is_refused_in_time(tmp_path):
    path = tmp_path / "spec.json"
    path.write_text("{" + ",".join(f'"f{number}": 0' for number in range(50_000)) + ', "f9": 1}')
    assert [problem.where for problem in refused(load_job, path).problems] == ["f9"]


def test_field_of_a_long_name_is_refused_in_time(make_content):
    (problem,) = refused(parse_spec, make_content(**{"ab_" * 300_000: 1})).problems
    assert problem.wrong == "is not a field of the spec"
    assert len(problem.where) < 1000


@pytest.mark.parametrize(
    ("unit", "end"),
    [
        ("a.", ""),
        ("a://b:", ""),
        ("a://b:1/", "@"),
        ("a://::", " @"),
        ("?token", ""),
        ("a:/?xtokenx", ""),
        ("@", ""),
    ],
)
def test_secrets_are_looked_for_in_time(unit, end):
    text = "a:/" + unit * (500_000 // len(unit)) + end
    start_s = time.process_time()
    redacted(text)
    assert time.process_time() - start_s < MAX_S


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (r"a\x1b[31mb", "a\x1b[31mb"),
        ("two lines", "two\nlines"),
        (r"\u202eabc", "\u202eabc"),
        ("é 中 😀", "é 中 😀"),
        ("a" * 300 + " ... " + "b" * 300, "a" * 1000 + "b" * 1000),
    ],
)
def test_problems_are_lines_that_can_be_read(shown, text):
    error = BadInputError("spec", [Problem(text, "is wrong", "fix it")])
    assert str(error).splitlines() == ["spec: 1 problem", f"  {shown}: is wrong; fix it"]


@pytest.mark.parametrize("path", [LONG_NAME, LONG_PATH, f"missing/{LONG_NAME}/file"])
@pytest.mark.parametrize(
    "where",
    [
        "dataset.train",
        "dataset.val",
        "dataset.cache.path",
        "checkpoints.storage_path",
        "tracking.uri",
        "teacher.weights.source",
        "student.weights.source",
    ],
)
def test_path_that_the_system_refuses_is_named(make_content, teacher, tmp_path, where, path):
    section, *keys = where.split(".")
    path = str(tmp_path / path) if not path.startswith("/") else path
    value = {"tracking.uri": f"sqlite:///{path}"}.get(where, path)
    for key in reversed(keys):
        value = {key: value}
    content = make_content(teacher=teacher)
    merged = {**content[section], **value} if section != "teacher" else {**teacher, **value}
    (problem,) = refused(parse_spec, {**content, section: merged}).problems
    assert problem.where == where
    assert "File name too long" in problem.wrong


def test_run_folder_must_have_room_for_its_files(make_content, tmp_path):
    folder = str(tmp_path)
    while len(folder) < 3900:
        folder += "/" + "y" * 100
    (problem,) = refused(parse_spec, make_content(checkpoints={"storage_path": folder})).problems
    assert problem.where == "checkpoints.storage_path"
    assert problem.remedy == "give another path"


def test_cache_in_a_file_is_refused(make_content, data_folder):
    path = str(data_folder / "train.beton" / "cache")
    error = refused(parse_spec, make_content(dataset={"cache": {"path": path}}))
    assert [problem.where for problem in error.problems] == ["dataset.cache.path"]


def test_dataset_that_is_the_root_is_refused(make_content):
    (problem,) = refused(parse_spec, make_content(dataset={"train": "/"})).problems
    assert (problem.where, problem.remedy) == ("dataset.train", "give an existing file")


@pytest.mark.parametrize("text", [LONG_NAME, LONG_PATH, "a\0b"])
def test_path_of_an_argument_that_the_system_refuses_is_named(text):
    with pytest.raises(Exception, match="give another path"):
        path_argument(text)


def test_more_held_out_images_than_any_file_has_are_refused(make_content):
    content = make_content(dataset={"held_out": {"num_images": 2**62}})
    assert refused(parse_spec, content).problems[0].where == "dataset.held_out.num_images"


def test_space_of_too_many_parameters_is_refused_in_time(make_sweep_content):
    space = {f"losses.dtkd.weight{number}": {"log": [1, 8]} for number in range(20_000)}
    (problem,) = refused(parse_sweep, make_sweep_content(space=space)).problems
    assert problem.where == "space"
    assert "at most 100 entries" in problem.remedy


def test_grid_of_too_many_points_is_refused_in_time(make_sweep_content):
    choice = {"choice": [number / 30 for number in range(30)]}
    names = ["losses.dtkd.weight", "losses.kd.weight", "losses.ce.weight", "optimizer.momentum",
             "optimizer.weight_decay"]  # fmt: skip
    content = make_sweep_content(algorithm={"kind": "grid"}, space=dict.fromkeys(names, choice))
    (problem,) = refused(parse_sweep, content).problems
    assert problem.where == "algorithm.kind"
    assert "more than 10,000 points" in problem.wrong


@pytest.mark.parametrize(
    "parameter",
    [{"choice": [number / 7 for number in range(2000)]}, {"log": [1, 8], "points": 10**9}],
)
def test_parameter_of_too_many_values_is_refused(make_sweep_content, parameter):
    content = make_sweep_content(
        algorithm={"kind": "grid"}, space={"losses.dtkd.weight": parameter}
    )
    (problem,) = refused(parse_sweep, content).problems
    assert problem.where.startswith("space.losses.dtkd.weight.")
