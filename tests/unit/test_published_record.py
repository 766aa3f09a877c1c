"""What a finished run has in MLflow beside its metrics, read back from a SQLite store."""

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from safetensors.torch import save_file
from support.run_folders import journal_events, write_run_folder

from service.models.build import build_model
from service.publish import publish
from service.run.folder import STUDENT_NAME, write_spec
from service.run.progress import Progress
from service.run.result import RunResult, read_result
from service.run_page.page import write_run_page
from service.spec.loading import parse_job
from service.spec.mlflow_rules import MAX_TAG_LENGTH
from service.tracking.dataset_inputs import dataset_tags
from service.tracking.mlflow_run import MlflowRun
from service.tracking.sync_destination import tracking_kept

LOSSES = {"ce": {}, "dtkd": {}, "kd": {}}


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def _tracking_uri(uri):
    with tracking_kept():
        mlflow.set_tracking_uri(uri)
        yield


@pytest.fixture
def publish_run(make_content, teacher, uri):
    """A function that publishes a finished run with a top-1 accuracy, twice; its spec and id."""

    def publish_twice(name, top1, *, has_page=True, **tracking):
        job = parse_job(make_content(name=name, teacher=teacher, losses=LOSSES, tracking=tracking))
        spec = job.spec
        write_run_folder(spec.run_path, journal_events(2), tags=dataset_tags("val", job.val))
        write_spec(spec)
        network = build_model(spec.student.model, 4)
        save_file(network.state_dict(), spec.run_path / STUDENT_NAME)
        progress = Progress(20, 2, 0, 0, top1, 0.9, top1, 0.9, 2, 0, 0.8, 0.9)
        RunResult(progress, "val", 1.0, 0.0, time_ms=1000).write(spec.run_path)
        if has_page:
            write_run_page(spec, spec.run_path)
        for _ in range(2):
            run = MlflowRun(spec, uri)
            publish(read_result(spec.run_path), spec, run)
        return spec, run.run_id

    return publish_twice


def test_a_run_is_described_and_its_student_has_a_card(publish_run, uri, tmp_path):
    promote = {"alias": "champion", "min_top1": 0.5}
    spec, run_id = publish_run("first", 0.6, register_as="it's", promote=promote)
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    names = {file.path for file in client.list_artifacts(run_id)}
    assert {"run.html", "temperatures.png", "student"} <= names
    note = run.data.tags["mlflow.note.content"]
    first, links, picture, *_ = note.split("\n\n")
    assert first == "**top-1 60.00%** after epoch 2 (best 60.00% after epoch 2, teacher 80.00%)"
    experiment_id = run.info.experiment_id
    page = f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/run.html?"
    assert f"[run.html]({page}workflowType=machine_learning)" in links
    assert (
        "[Version 1 of it's](#/models/it%27s/versions/1): champion is moved to version 1" in links
    )
    address = f"get-artifact?path=temperatures.png&run_uuid={run_id}"
    assert picture == f"![temperatures of both softmaxes]({address})"
    assert "| Student | cifar:tiny\\_cnn |" in note
    assert len(note) <= MAX_TAG_LENGTH

    (version,) = client.search_model_versions(f"run_id = '{run_id}'")
    assert client.get_model_version_by_alias("it's", "champion").version == version.version
    promotion = read_result(spec.run_path).promotion
    assert promotion == version.tags["promotion"] == run.data.tags["promotion"]
    assert float(version.tags["val_top1"]) == 0.6
    readme = client.download_artifacts(run_id, "student/README.md", str(tmp_path))
    text = Path(readme).read_text(encoding="utf-8")
    assert version.description == f"first, top-1 60.00%\n\n{text}"
    (output,) = run.outputs.model_outputs
    files = client.list_logged_model_artifacts(output.model_id, "extra_files")
    assert "extra_files/README.md" in [file.path for file in files]
    assert "dtkd-service" in client.get_registered_model("it's").description


def test_descriptions_of_people_are_kept_and_worse_students_not_promoted(publish_run, uri):
    client = MlflowClient(uri)
    client.create_registered_model("own", description="mine")
    tracking = {"register_as": "own", "promote": {"alias": "champion"}}
    publish_run("good", 0.7, **tracking)
    client.update_model_version("own", "1", "edited")
    spec, run_id = publish_run("worse", 0.6, **tracking)
    assert client.get_registered_model("own").description == "mine"
    assert client.get_model_version("own", "1").description == "edited"
    assert str(client.get_model_version_by_alias("own", "champion").version) == "1"
    text = "is not above 70.00%"
    assert text in client.get_run(run_id).data.tags["promotion"]
    assert text in read_result(spec.run_path).summary


def test_run_of_a_comparison_is_described_without_a_page(publish_run, uri):
    _, run_id = publish_run("one-of-many", 0.6, has_page=False)
    client = MlflowClient(uri)
    names = {file.path for file in client.list_artifacts(run_id)}
    assert names == {"student", "temperatures.png"}
    note = client.get_run(run_id).data.tags["mlflow.note.content"]
    assert "run.html" not in note
    assert "get-artifact?path=temperatures.png" in note


def test_picture_that_cannot_be_drawn_keeps_no_student_from_mlflow(publish_run, uri, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("service.run_page.temperatures.temperatures_png", fail)
    _, run_id = publish_run("without", 0.6)
    client = MlflowClient(uri)
    assert client.get_run(run_id).info.status == "FINISHED"
    names = {file.path for file in client.list_artifacts(run_id)}
    assert names == {"student", "run.html"}
    assert "get-artifact" not in client.get_run(run_id).data.tags["mlflow.note.content"]
