"""Evaluations in a real MLflow store: found by address, logged with their model and their data."""

import json

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import save_file
from support.spec_contents import spec_content

from jobs.evaluate import main
from service.evaluate import latency
from service.models.build import build_model
from service.run.folder import STUDENT_NAME, write_spec
from service.run.progress import Progress
from service.run.result import RunResult
from service.run.student_card import student_card, write_with_card
from service.spec.loading import parse_spec
from service.tracking.mlflow_run import MlflowRun
from service.tracking.student_model import log_student

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(latency, "WARM_UP_S", 0.0)
    monkeypatch.setattr(latency, "MEASURED_S", 0.0)


@pytest.fixture(scope="module")
def logged(tmp_path_factory, data_folder):
    """The spec of a finished run with random weights, and its run, with version 1 of r as best."""
    folder = tmp_path_factory.mktemp("store")
    spec = parse_spec(spec_content(data_folder, folder / "runs"))
    spec.run_path.mkdir(parents=True)
    write_spec(spec)
    torch.manual_seed(3)
    network = build_model("cifar:tiny_cnn", 4).eval()
    save_file(network.state_dict(), folder / "weights.safetensors")
    path = spec.run_path / STUDENT_NAME
    card = student_card(spec, None, folder / "weights.safetensors")
    write_with_card(folder / "weights.safetensors", path, card)
    RunResult(Progress(step=3, epoch=2, last_top1=0.3), "val", 1.0, 0.0, time_ms=1000).write(
        spec.run_path
    )
    run = MlflowRun(spec, f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    mlflow.register_model(log_student(run, spec, network, path).uri, "r")
    run.client.set_registered_model_alias("r", "best", "1")
    mlflow.set_tracking_uri(None)
    return spec, run


def evaluation_of(run, number):
    """The newest of so many runs of the experiment, without the training's."""
    runs = run.client.search_runs([run.experiment_id], order_by=["start_time DESC"])
    assert len(runs) == number + 1
    return runs[0]


def test_a_run_and_its_addresses_give_the_same_figures(logged, data_folder, tmp_path):
    spec, run = logged
    (model,) = run.client.search_logged_models([run.experiment_id])
    addresses = ["models:/r@best", "models:/r/1", f"models:/{model.model_id}"]
    sources = [str(spec.run_path), *addresses, f"runs:/{run.run_id}/student"]
    figures = []
    for number, source in enumerate(sources):
        path = tmp_path / f"{number}.json"
        options = ["--json", str(path), "--tracking-uri", run.uri]
        assert main([source, str(data_folder / "val.beton"), *options]) == 0
        report = json.loads(path.read_text())
        figures.append([report[name] for name in ("top1", "nll", "ece", "per_class")])
    assert all(each == figures[0] for each in figures)


def test_results_are_the_models_own_with_their_data(logged, data_folder, tmp_path):
    """Each kind of source leads to the run's logged model; without an option, to its server."""
    spec, run = logged
    (model,) = run.client.search_logged_models([run.experiment_id])
    path = tmp_path / "report.json"
    assert (
        main([str(spec.run_path), str(data_folder / "val.beton"), "--mlflow", "--json", str(path)])
        == 0
    )
    report = json.loads(path.read_text())
    found = evaluation_of(run, 1)
    assert found.info.run_name == "run on val"
    assert found.info.status == "FINISHED"
    assert found.data.metrics["eval/top1"] == pytest.approx(report["top1"]["value"])
    assert found.data.metrics["eval/latency_batch32_s"] > 0
    (dataset,) = found.inputs.dataset_inputs
    assert dataset.dataset.name == "val"
    assert report["data"]["fingerprint"].startswith(dataset.dataset.digest)
    client = MlflowClient(run.uri)
    names = {each.path for each in client.list_artifacts(found.info.run_id)}
    assert names == {"report.json", "report.html"}
    (own,) = [
        metric
        for metric in client.get_logged_model(model.model_id).metrics
        if metric.key == "eval/top1"
    ]
    assert own.value == pytest.approx(report["top1"]["value"])
    assert (own.dataset_name, own.dataset_digest) == (dataset.dataset.name, dataset.dataset.digest)
    assert found.data.tags["evaluated_run"] == run.run_id


def test_a_server_that_is_away_costs_the_log_alone(logged, data_folder, tmp_path, capsys):
    spec, _ = logged
    arguments = [str(spec.run_path), str(data_folder / "val.beton"), "--mlflow"]
    path = tmp_path / "report.json"
    away = ["--tracking-uri", "http://127.0.0.1:9", "--json", str(path)]
    assert main([*arguments, *away]) == 1
    assert json.loads(path.read_text())["data"]["num_images"] == 101
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == (
        "the results are not logged: MLflow at http://127.0.0.1:9 does not answer; start it, or "
        "give another --tracking-uri"
    )


def test_addresses_that_name_nothing_are_refused(logged, data_folder, tmp_path, capsys):
    _, run = logged
    data = str(data_folder / "val.beton")
    for source, uri, status, text in (
        ("models:/r@worst", run.uri, 2, "MODEL: models:/r@worst is not in MLflow"),
        ("models:/r", run.uri, 2, "MODEL: is 'models:/r', which names no version"),
        ("models:/r@best", f"sqlite:///{tmp_path}/new.db", 2, "there is no database"),
        ("models:/r@best", "http://127.0.0.1:9", 1, "MLflow at http://127.0.0.1:9 does not answer"),
    ):
        assert main([source, data, "--tracking-uri", uri]) == status
        assert text in capsys.readouterr().err
    assert not (tmp_path / "new.db").exists()
