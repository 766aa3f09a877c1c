"""The files of a student in a real MLflow store: they explain themselves, and can be found."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import mlflow
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.spec_contents import spec_content
from torch import nn

from service.models.build import build_model
from service.run.folder import STUDENT_NAME, write_spec
from service.run.progress import Progress
from service.run.result import RunResult
from service.run.student_card import (
    CARD_NAME,
    student_card,
    write_classes,
    write_with_card,
)
from service.spec.errors import BadInputError
from service.spec.job import JobSpec
from service.spec.loading import parse_job
from service.tracking.job_check import check_weights
from service.tracking.mlflow_run import MlflowRun
from service.tracking.registration import register_student
from service.tracking.student_model import log_student
from service.tracking.weights_source import download_weights, find_weights

CLASSES = ("cat", "n01440764", "\u9ce5", 'a "quoted" one')
QUOTED_NAME = 'it\'s "quoted" `so` \\ 100%'
WHERE = "teacher.weights.source"

pytestmark = pytest.mark.slow


class LoggedStudent(NamedTuple):
    spec: JobSpec
    student: nn.Module
    run: MlflowRun
    uri: str
    model_id: str


@pytest.fixture(autouse=True)
def _no_other_mlflow(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def log(folder, data_folder, uri, name, model, **tracking):
    """Log a student with random weights under ``name``, as a finished job does."""
    student = {"model": model}
    content = spec_content(
        data_folder, folder / "runs", name=name, student=student, tracking=tracking
    )
    spec = parse_job(content).spec
    spec.run_path.mkdir(parents=True)
    write_spec(spec)
    write_classes(spec.run_path, CLASSES)
    torch.manual_seed(3)
    network = build_model(model, 4).eval()
    save_file(network.state_dict(), folder / "weights.safetensors")
    path = spec.run_path / STUDENT_NAME
    weights_path = folder / "weights.safetensors"
    write_with_card(weights_path, path, student_card(spec, CLASSES, weights_path))
    run = MlflowRun(spec, uri)
    result = RunResult(Progress(last_top1=0.5), "val", 1.0, 0.0, time_ms=1000)
    # Another attempt, as after an interrupted one, registers no second version.
    for _ in range(2):
        register_student(run, spec, log_student(run, spec, network, path), result)
    (model_output,) = run.client.get_run(run.run_id).outputs.model_outputs
    return LoggedStudent(spec, network, run, uri, model_output.model_id)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def logged(folder, data_folder):
    tracking = {
        "register_as": QUOTED_NAME,
        "promote": {"alias": "champion"},
        "experiment": 'it\'s "one" \\ `',
    }
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    return log(folder, data_folder, uri, "own", "cifar:tiny_cnn", **tracking)


@pytest.fixture(scope="module")
def logged_resnet(folder, data_folder, logged):
    return log(folder, data_folder, logged.uri, "torchvision", "resnet18")


def test_names_with_quotes_are_registered_once(logged):
    versions = logged.run.client.search_model_versions()
    assert [(v.name, int(v.version)) for v in versions] == [(QUOTED_NAME, 1)]
    found = logged.run.client.get_model_version_by_alias(QUOTED_NAME, "champion")
    assert found.run_id == logged.run.run_id


@pytest.mark.parametrize("which", ["logged", "logged_resnet"])
def test_each_snippet_loads_the_student(which, request, tmp_path, monkeypatch):
    """Each runs as it is written in the file, in a folder with the run's files."""
    case = request.getfixturevalue(which)
    mlflow.artifacts.download_artifacts(
        artifact_uri=f"runs:/{case.run.run_id}/student",
        dst_path=str(tmp_path),
        tracking_uri=case.uri,
    )
    monkeypatch.chdir(tmp_path / "student")
    mlflow.set_tracking_uri(case.uri)
    snippets = json.loads(Path(CARD_NAME).read_text())["load"]
    expected = {"dtkd-service", "pt2"} | ({"torchvision"} if which == "logged_resnet" else set())
    assert snippets.keys() == expected
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        logits = case.student(images)
        for snippet in snippets.values():
            assert len(snippet.splitlines()) == 3
            names = {}
            exec(snippet, names)
            torch.testing.assert_close(names["model"](images), logits, rtol=1e-4, atol=1e-5)


def test_weights_and_model_say_what_they_are(logged):
    expected = {
        "architecture": "cifar:tiny_cnn",
        "num_classes": 4,
        "classes": list(CLASSES),
        "class_names": ["cat", "tench", *CLASSES[2:]],
        "resize_shorter_side": 16,
        "center_crop": 16,
        "interpolation": "bilinear",
        "antialias": True,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "weights": "last step",
        "spec_hash": logged.spec.content_hash(),
    }
    with safe_open(logged.spec.run_path / STUDENT_NAME, "pt") as file:
        metadata = file.metadata()
    for key, value in expected.items():
        assert (metadata[key] if isinstance(value, str) else json.loads(metadata[key])) == value
    mlflow.set_tracking_uri(logged.uri)
    model_info = mlflow.models.get_model_info(f"models:/{QUOTED_NAME}@champion")
    assert expected.items() <= model_info.metadata.items()
    for name, tensor in load_file(logged.spec.run_path / STUDENT_NAME).items():
        assert torch.equal(tensor, logged.student.state_dict()[name])


def addresses(case):
    artifact_uri = case.run.client.get_run(case.run.run_id).info.artifact_uri
    return {
        "run": f"runs:/{case.run.run_id}",
        "run's student": f"runs:/{case.run.run_id}/student",
        "file of the run": f"runs:/{case.run.run_id}/student/student.safetensors",
        "version": f"models:/{QUOTED_NAME}/1",
        "alias": f"models:/{QUOTED_NAME}@champion",
        "file of the version": f"models:/{QUOTED_NAME}/1/extra_files/student.safetensors",
        "logged model": f"models:/{case.model_id}",
        "file of the logged model": f"models:/{case.model_id}/extra_files",
        "artifacts": f"{artifact_uri}/student",
    }


def test_every_address_of_a_student_is_its_weights(logged, tmp_path):
    mlflow.set_tracking_uri(logged.uri)
    expected = (logged.spec.run_path / STUDENT_NAME).read_bytes()
    for name, address in addresses(logged).items():
        found = find_weights(address, logged.uri, WHERE)
        assert found.num_bytes == len(expected), name
        assert found.card["architecture"] == "cifar:tiny_cnn", name
        (tmp_path / name).mkdir()
        path = download_weights(address, str(tmp_path / name), WHERE)
        assert path.read_bytes() == expected, name


@pytest.mark.parametrize(
    "address",
    [
        "runs:/0123456789abcdef0123456789abcdef/student",
        "runs:/{run_id}/teacher",
        "runs:/{run_id}/student/teacher.safetensors",
        "models:/unknown@champion",
        "models:/{name}@challenger",
        "models:/{name}/7",
        "models:/m-00000000000000000000000000000000",
        "mlflow-artifacts:/1/abc/artifacts/student",
    ],
)
def test_address_that_mlflow_lacks_is_a_problem_of_its_field(logged, address, tmp_path):
    address = address.format(run_id=logged.run.run_id, name=QUOTED_NAME)
    mlflow.set_tracking_uri(logged.uri)
    with pytest.raises(BadInputError) as error:
        download_weights(address, str(tmp_path), WHERE)
    (problem,) = error.value.problems
    assert problem.where == WHERE
    assert address in problem.wrong
    assert "\n" not in str(problem)


def test_several_weights_are_listed(logged, tmp_path):
    run = logged.run.client.create_run(logged.run.experiment_id)
    for name in ("a", "b"):
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
        logged.run.client.log_artifact(run.info.run_id, str(tmp_path / f"{name}.safetensors"))
    with pytest.raises(BadInputError, match=r"2 safetensors files: .*/a\.saf.*/b\.saf"):
        find_weights(f"runs:/{run.info.run_id}", logged.uri, WHERE)


def job_with_teacher(make_content, logged, model, classes, **sections):
    teacher = {"model": model, "weights": {"source": f"models:/{QUOTED_NAME}@champion"}}
    content = make_content(teacher=teacher, tracking={"uri": logged.uri}, **sections)
    job = parse_job(content)
    return job._replace(train=job.train._replace(classes=classes))


def test_plan_says_which_weights_were_found(logged, make_content):
    (line,) = check_weights(job_with_teacher(make_content, logged, "cifar:tiny_cnn", CLASSES))
    size = (logged.spec.run_path / STUDENT_NAME).stat().st_size / 1e3
    assert line == (
        f"teacher weights: models:/{QUOTED_NAME}@champion is version 1 of {QUOTED_NAME}, of run "
        f"{logged.run.run_id}, cifar:tiny_cnn, 4 classes, {size:.1f} kB"
    )


@pytest.mark.parametrize(
    ("model", "classes", "text"),
    [
        ("cifar:resnet20", CLASSES, "has weights of cifar:tiny_cnn, but the model is"),
        (
            "cifar:tiny_cnn",
            CLASSES[::-1],
            'has label 0 for cat, but in the dataset it is a "quoted',
        ),
        (
            "cifar:tiny_cnn",
            ("wxyz", *CLASSES[1:]),
            "lacks wxyz, 1 of the dataset's 4 classes; use a teacher of these classes, or",
        ),
    ],
)
def test_other_network_or_classes_are_refused(logged, make_content, model, classes, text):
    with pytest.raises(BadInputError) as error:
        check_weights(job_with_teacher(make_content, logged, model, classes))
    assert f"{WHERE}: {text}" in str(error.value)


def test_weights_are_looked_up_until_the_run_has_started(logged, make_content):
    job = job_with_teacher(make_content, logged, "cifar:resnet20", CLASSES)
    job.spec.run_path.mkdir(parents=True)
    write_spec(job.spec)
    # What was rejected before a step is checked again; a run that has started has its weights.
    with pytest.raises(BadInputError, match="has weights of cifar:tiny_cnn"):
        check_weights(job)
    (job.spec.run_path / "checkpoint_0000000001").mkdir()
    assert check_weights(job) == []


def test_other_weights_are_described_by_their_header(logged, make_content, tmp_path):
    run = logged.run.client.create_run(logged.run.experiment_id)
    for num_classes in (4, 5):
        state = build_model("cifar:resnet8", num_classes).state_dict()
        save_file(state, tmp_path / "other.safetensors")
        folder = f"model{num_classes}"
        logged.run.client.log_artifact(run.info.run_id, str(tmp_path / "other.safetensors"), folder)

    def job_with(folder):
        source = f"runs:/{run.info.run_id}/{folder}"
        teacher = {"model": "cifar:resnet8", "weights": {"source": source}}
        return parse_job(make_content(teacher=teacher, tracking={"uri": logged.uri}))

    (line,) = check_weights(job_with("model4"))
    assert f"is in run {run.info.run_id}, 4 classes, " in line
    with pytest.raises(BadInputError, match="has a classifier for 5 classes"):
        check_weights(job_with("model5"))


STATE_SCRIPT = """
import logging, os, sys, warnings
from pathlib import Path
import mlflow
from service.publish import load_student
from service.run.folder import read_spec
from service.tracking.mlflow_run import MlflowRun
from service.tracking.student_model import log_student

def state():
    root = logging.getLogger()
    return [root.level, list(root.handlers), root.manager.disable, list(warnings.filters),
        dict(os.environ), Path.cwd(), mlflow.get_tracking_uri(), mlflow.active_run()]

run_path = Path(sys.argv[1])
spec = read_spec(run_path)
student = load_student(spec, run_path / "student.safetensors")
run = MlflowRun(spec, sys.argv[2])
before = state()
log_student(run, spec, student, run_path / "student.safetensors")
assert state() == before, (before, state())
logging.getLogger("service.job").warning("a warning after the export")
"""


def test_logging_a_student_leaves_the_process_as_it_was(logged, tmp_path):
    """In a new process: MLflow changes the root logger when it imports its module for PyTorch."""
    shutil.copytree(logged.spec.run_path, tmp_path / "run")
    (tmp_path / "run" / "mlflow_run_id").unlink()
    spec = logged.spec.model_copy(update={"name": "in-a-new-process"})
    (tmp_path / "run" / "spec.json").write_text(spec.model_dump_json())
    spec.run_path.mkdir()
    command = [sys.executable, "-c", STATE_SCRIPT, str(tmp_path / "run"), logged.uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "a warning after the export" in done.stderr
