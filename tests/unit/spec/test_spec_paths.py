"""Paths of specs: made absolute, refused where Ray removes them, and named where nothing is."""

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from jobs.convert import main as convert
from jobs.distill import main as distill
from jobs.sweep import main as sweep
from jobs.sync import main as sync
from jobs.verify import main as verify
from service.spec.errors import BadInputError
from service.spec.loading import load_spec, parse_spec
from service.tracking.mlflow_run import MlflowRun, tracking_uri

UPLOAD = "ray/session_1/runtime_resources/working_dir_files/_ray_pkg_0123456789abcdef"


@pytest.fixture
def upload(tmp_path, monkeypatch):
    """The current directory is Ray's copy of a submitted folder."""
    folder = tmp_path / UPLOAD
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def problems_of(content):
    with pytest.raises(BadInputError) as caught:
        parse_spec(content)
    return {problem.where: str(problem) for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"checkpoints": {"storage_path": "runs"}}, "checkpoints.storage_path"),
        ({"dataset": {"cache": {"path": "cache"}}}, "dataset.cache.path"),
        ({"tracking": {"uri": "sqlite:///mlflow.db"}}, "tracking.uri"),
    ],
)
def test_relative_outputs_in_a_submitted_folder_are_refused(make_content, upload, sections, where):
    problems = problems_of(make_content(**sections))
    assert list(problems) == [where]
    assert "give an absolute path" in problems[where]


def test_a_relative_tracking_uri_of_the_environment_is_refused(make_content, upload, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert list(problems_of(make_content())) == ["MLFLOW_TRACKING_URI"]


def test_a_base_file_with_relative_outputs_is_refused(make_sweep_content, upload, capfd):
    content = make_sweep_content()
    content["base"]["checkpoints"]["storage_path"] = "runs"
    (upload / "base.json").write_text(json.dumps(content["base"]))
    (upload / "sweep.json").write_text(json.dumps({**content, "base": "base.json"}))
    assert sweep(["sweep.json", "--validate"]) == 2
    assert "base.checkpoints.storage_path" in capfd.readouterr().err


def test_converting_into_a_submitted_folder_is_refused(upload, capfd):
    with pytest.raises(SystemExit) as caught:
        convert([str(upload.parent), "out.beton"])
    assert caught.value.code == 2
    assert "give an absolute path" in capfd.readouterr().err


def test_uploaded_inputs_are_read(make_content, upload, data_folder):
    for name in ("train.beton", "val.beton"):
        (upload / name).write_bytes((data_folder / name).read_bytes())
    spec = parse_spec(make_content(dataset={"train": "train.beton", "val": "val.beton"}))
    assert spec.dataset.train == str(upload / "train.beton")


def test_relative_sqlite_starts_from_the_current_directory(make_content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = parse_spec(make_content(tracking={"uri": "sqlite:///db/mlflow.db"}))
    assert spec.tracking.uri == f"sqlite:///{tmp_path}/db/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert tracking_uri(spec) == f"sqlite:///{tmp_path}/other.db"


def test_the_home_directory_is_replaced(make_content, data_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "train.beton").symlink_to(data_folder / "train.beton")
    spec = parse_spec(
        make_content(
            dataset={"train": "~/train.beton", "cache": {"path": "~/cache"}},
            checkpoints={"storage_path": "~/runs"},
            tracking={"uri": "sqlite:///~/mlflow.db"},
        )
    )
    assert spec.dataset.train == str(tmp_path / "train.beton")
    assert spec.dataset.cache.path == tmp_path / "cache"
    assert spec.checkpoints.storage_path == tmp_path / "runs"
    assert spec.tracking.uri == f"sqlite:///{tmp_path}/mlflow.db"


def test_the_home_of_an_unknown_user_is_refused(make_content):
    problems = problems_of(make_content(checkpoints={"storage_path": "~no-such-user/runs"}))
    assert "~no-such-user" in problems["checkpoints.storage_path"]


@pytest.mark.parametrize("name", ["a b", "a?b", "a#b", "a%20b", "é", "a b?c#d%20é"])
def test_any_storage_path_can_have_the_default_database(make_content, tmp_path, name, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    storage_path = tmp_path / name
    spec = parse_spec(make_content(checkpoints={"storage_path": str(storage_path)}))
    spec.run_path.mkdir(parents=True)
    run = MlflowRun(spec, tracking_uri(spec))
    run.log_spec({})
    mlflow.set_tracking_uri(None)
    assert (storage_path / "mlflow.db").stat().st_size > 0
    assert len(list(storage_path.glob("mlflow-artifacts/*/artifacts/spec.json"))) == 1


def test_a_byte_order_mark_is_accepted(make_content, tmp_path):
    path = tmp_path / "spec.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(make_content()).encode())
    assert load_spec(path).name == "run"


@pytest.mark.parametrize("in_job", [False, True])
@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        (distill, ["no.json"]),
        (sweep, ["no.json"]),
        (sync, ["no.json"]),
        (verify, ["no.json"]),
        (convert, ["no.json", "out.beton"]),
        (convert, [".", "out.beton", "--labels", "no.json"]),
        (distill, ["--new", "--train", "no.json", "--val", "v", "--student", "resnet18"]),
    ],
)
def test_a_missing_file_is_named_with_its_directory(
    tmp_path, monkeypatch, capfd, script, arguments, in_job
):
    monkeypatch.chdir(tmp_path)
    if in_job:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    try:
        status = script(arguments)
    except SystemExit as end:
        status = end.code
    error = capfd.readouterr().err
    assert status == 2
    assert str(tmp_path / "no.json") in error
    assert ("--working-dir" in error) == in_job


def test_missing_files_of_specs_are_named_with_their_directory(
    make_content, make_sweep_content, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    teacher = {"model": "cifar:resnet8", "weights": {"source": "no.pth"}}
    problems = problems_of(make_content(dataset={"train": "no.beton"}, teacher=teacher))
    assert str(tmp_path / "no.beton") in problems["dataset.train"]
    assert str(tmp_path / "no.pth") in problems["teacher.weights.source"]
    (tmp_path / "sweep.json").write_text(
        json.dumps({**make_sweep_content(), "base": "no-base.json"})
    )
    script = Path(__file__).parents[3] / "jobs" / "sweep.py"
    result = subprocess.run(
        [sys.executable, script, "sweep.json", "--validate"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert str(tmp_path / "no-base.json") in result.stderr
