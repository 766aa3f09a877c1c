"""Checkpoints of a run that is killed and resumed, or whose server is away, in a SQLite store."""

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from support.training_runs import InterruptedRunError, run_alone

from service.publish import publish, sync_run
from service.result import collect_result
from service.run.claim import claim_run_folder
from service.run.folder import write_spec, write_tags
from service.run.journal import JOURNAL_NAME, read_events
from service.run.tracked_checkpoints import waiting_steps
from service.spec.loading import parse_spec
from service.tracking.sync_destination import tracking_kept
from service.tracking.tracker import Tracker
from service.tracking.weights_source import download_weights
from service.training.checkpoint import checkpoint_name

NUM_EPOCHS = 4
STEPS = [4, 8, 12]
LAST_STEP = 16

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_tracking")]


@pytest.fixture
def uri(tmp_path):
    return f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"


def spec_of(make_content, name, checkpoints):
    content = make_content(
        name=name,
        schedule={"num_epochs": NUM_EPOCHS, "milestones": []},
        training={"ema_decay": 0.5},
        tracking={"checkpoints": checkpoints},
        checkpoints={"num_to_keep": 9},
    )
    return parse_spec(content)


def train(spec, uri, stop_after_epochs=None):
    """Train as a job does, with a tracker; publish what has finished."""
    with claim_run_folder(spec), tracking_kept():
        write_spec(spec)
        write_tags(spec.run_path, {})
        tracker = Tracker(spec, uri, {}, None)
        try:
            run_alone(spec, stop_after_epochs)
        finally:
            run = tracker.close("running")
        result = collect_result(spec.run_path, NUM_EPOCHS)
        if run is not None:
            publish(result, spec, run)


def models_of(spec, uri):
    """The models that a run's page shows, by step and role."""
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'dtkd'")
    (run,) = client.search_runs([experiment.experiment_id], f"run_name = '{spec.name}'")
    query = f"source_run_id = '{run.info.run_id}'"
    models = client.search_logged_models([experiment.experiment_id], query)
    assert all(model.status == "READY" for model in models)
    found = {(int(model.tags["step"]), model.tags["role"]): model for model in models}
    assert len(found) == len(models)
    return found


def assert_weights(model, expected_path, uri, folder):
    """The weights and the exported network of a model are those of a checkpoint's file."""
    mlflow.set_tracking_uri(uri)
    address, expected = f"models:/{model.model_id}", load_file(expected_path)
    folder.mkdir()
    found = load_file(download_weights(address, str(folder), "student.weights.source"))
    exported = mlflow.pytorch.load_model(address).state_dict()
    for weights in (found, exported):
        names = [name for name in expected if not name.endswith("num_batches_tracked")]
        assert all(torch.equal(weights[name], expected[name]) for name in names)


def test_killed_and_resumed_each_checkpoint_is_there_once(make_content, uri, tmp_path):
    reference = spec_of(make_content, "reference", "last")
    run_alone(reference)
    spec = spec_of(make_content, "killed", {"newest": 9})
    for _ in range(2):
        with pytest.raises(InterruptedRunError):
            train(spec, uri, stop_after_epochs=1)
    train(spec, uri)
    events = read_events(spec.run_path / JOURNAL_NAME)
    assert [event.step for event in events if event.kind == "student"] == STEPS
    models = models_of(spec, uri)
    assert models.keys() == {*((step, "checkpoint") for step in STEPS), (LAST_STEP, "final")}
    assert waiting_steps(spec.run_path) == []
    accuracies = {e.step: e.values["val/top1"] for e in events if e.kind == "evaluation"}
    for (step, _), model in models.items():
        expected_path = reference.run_path / checkpoint_name(step) / "ema.safetensors"
        assert_weights(model, expected_path, uri, tmp_path / f"fetched-{step}")
        (top1,) = (metric for metric in model.metrics if metric.key == "val/top1")
        assert (top1.step, top1.value) == (step, accuracies[step])


def test_server_away_for_the_whole_run_gets_the_newest_by_sync(make_content, uri):
    spec = spec_of(make_content, "away", {"newest": 2})
    # Nothing listens at port 9 of this machine.
    train(spec, "http://127.0.0.1:9")
    assert waiting_steps(spec.run_path) == STEPS[:0:-1]
    for _ in range(2):
        line = sync_run(spec.run_path)
    assert line == "away: MLflow has everything"
    assert models_of(spec, uri).keys() == {
        (8, "checkpoint"),
        (12, "checkpoint"),
        (LAST_STEP, "final"),
    }
    assert waiting_steps(spec.run_path) == []
