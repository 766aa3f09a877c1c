"""MLflow slow or away at any time: training is not affected, and everything is sent once."""

import threading
import time

import pytest
from mlflow import MlflowClient
from support.mlflow_server import Line, mlflow_server
from support.training_runs import InterruptedRunError, run_alone

from jobs.sync import main as sync
from service.job import run_job
from service.publish import publish, sync_run
from service.result import collect_result
from service.run.claim import claim_run_folder
from service.run.folder import write_spec, write_tags
from service.run.journal import JOURNAL_NAME, read_events
from service.spec.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED
from service.spec.loading import parse_job
from service.tracking import tracker as tracker_module
from service.tracking.mlflow_run import TRACKING_ERRORS, flattened
from service.tracking.tracker import Tracker
from service.tracking.weights_source import find_weights

TAGS = {"spec_hash": "0123", "git_revision": "unknown"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("server")) as port:
        yield port


@pytest.fixture
def line(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(tracker_module, "MAX_BACKOFF_S", 1.0)
    line = Line(server)
    yield line
    line.close()


def job_of(make_content, line, name):
    tracking = {"uri": line.url, "log_every_steps": 1, "register_as": f"students-{name}"}
    return parse_job(make_content(name=name, tracking=tracking))


def spec_of(make_content, line, name):
    return job_of(make_content, line, name).spec


def train_with_tracker(spec, line, changes):
    """Train with a tracker on the journal; ``changes`` are (step, mode) of the line.

    Returns the MLflow run if MLflow has everything at the end of the training.
    """
    with claim_run_folder(spec):
        write_spec(spec)
        write_tags(spec.run_path, TAGS)
        tracker = Tracker(spec, line.url, TAGS, lambda event: None)

        def change():
            for step, mode in changes:
                while not any(e.step >= step for e in read_events(spec.run_path / JOURNAL_NAME)):
                    time.sleep(0.01)
                line.set(mode)
                time.sleep(1)

        changer = threading.Thread(target=change)
        changer.start()
        run_alone(spec)
        changer.join()
        result = collect_result(spec.run_path, spec.schedule.num_epochs)
        run = tracker.close("finished")
        if run is not None:
            publish(result, spec, run)
        return run


def models_of(run, models):
    return [model for model in models if model.source_run_id == run.info.run_id]


def assert_everything_is_there_once(spec, server):
    client = MlflowClient(f"http://127.0.0.1:{server}")
    experiment = client.get_experiment_by_name(spec.tracking.experiment)
    runs = client.search_runs([experiment.experiment_id], f"tags.mlflow.runName = '{spec.name}'")
    assert len(runs) == 1
    run = runs[0]
    assert run.info.status == "FINISHED"
    assert run.data.params == flattened(spec)
    assert TAGS.items() <= run.data.tags.items()
    assert run.data.tags["status.state"] == "finished"
    recorded = [
        (name, event.step, value)
        for event in read_events(spec.run_path / JOURNAL_NAME)
        for name, value in event.values.items()
    ]
    names = {name for name, *_ in recorded}
    logged = [
        (name, point.step, point.value)
        for name in names
        for point in client.get_metric_history(run.info.run_id, name)
    ]
    assert sorted(logged) == sorted(recorded)
    assert {"train/loss", "val/top1"} <= names
    assert len(client.get_metric_history(run.info.run_id, "result/last_top1")) == 1
    paths = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"spec.json", "student"} <= paths
    models = client.search_logged_models([experiment.experiment_id])
    assert len(models_of(run, models)) == 1
    assert len(client.search_model_versions(f"name = '{spec.tracking.register_as}'")) == 1
    size = (spec.run_path / "student.safetensors").stat().st_size
    for address in (
        f"runs:/{run.info.run_id}/student",
        f"models:/{spec.tracking.register_as}/1",
        f"models:/{models_of(run, models)[0].model_id}",
        f"{run.info.artifact_uri}/student",
    ):
        found = find_weights(address, f"http://127.0.0.1:{server}", "teacher.weights.source")
        assert (found.num_bytes, found.card["architecture"]) == (size, spec.student.model)


@pytest.mark.parametrize(
    ("name", "mode", "changes"),
    [
        ("refused-at-start", "refused", [(3, "up")]),
        ("refused-midway", "up", [(2, "refused"), (5, "up")]),
        ("dead-midway", "up", [(2, "dead"), (5, "up")]),
    ],
)
def test_server_that_comes_back_gets_everything_once(
    make_content, line, server, name, mode, changes
):
    spec = spec_of(make_content, line, name)
    line.set(mode)
    assert train_with_tracker(spec, line, changes) is not None
    assert_everything_is_there_once(spec, server)


def test_slow_server_gets_everything_once(make_content, line, server):
    spec = spec_of(make_content, line, "slow")
    line.set("up", delay_s=0.05)
    assert train_with_tracker(spec, line, []) is not None
    assert_everything_is_there_once(spec, server)


@pytest.mark.parametrize(
    ("name", "mode", "changes"),
    [
        ("always-refused", "refused", []),
        ("always-dead", "dead", []),
        ("refused-at-end", "up", [(4, "refused")]),
    ],
)
def test_sync_sends_what_mlflow_missed(make_content, line, server, name, mode, changes):
    spec = spec_of(make_content, line, name)
    line.set(mode)
    start_s = time.monotonic()
    assert train_with_tracker(spec, line, changes) is None
    assert time.monotonic() - start_s < 30
    line.set("up")
    assert "and the student" in sync_run(spec.run_path)
    assert_everything_is_there_once(spec, server)
    assert sync_run(spec.run_path) == f"{spec.name}: MLflow has everything"


def test_sync_command_reports_failures_and_sends_the_rest(make_content, line, server, capsys):
    spec = spec_of(make_content, line, "command")
    line.set("refused")
    assert train_with_tracker(spec, line, []) is None
    arguments = [str(spec.checkpoints.storage_path)]
    assert sync(arguments) == EXIT_FAILED
    error = capsys.readouterr().err
    assert f"{spec.name}: MLflow did not accept it" in error
    assert "Traceback" not in error
    line.set("up")
    assert sync(arguments) == EXIT_DONE
    assert "and the student" in capsys.readouterr().out
    assert_everything_is_there_once(spec, server)


def test_sync_interrupted_anywhere_is_completed_by_the_next_one(make_content, line, server):
    """The line fails after n pieces of requests, for every seventh n until all pass."""
    spec = spec_of(make_content, line, "interrupted")
    line.set("refused")
    assert train_with_tracker(spec, line, []) is None
    num_interruptions = 0
    while True:
        line.set("up", num_pieces=7 * num_interruptions + 2)
        try:
            sync_run(spec.run_path)
        except TRACKING_ERRORS:
            num_interruptions += 1
        else:
            break
    assert num_interruptions > 3
    assert_everything_is_there_once(spec, server)


def test_finished_run_trains_nothing_while_mlflow_is_away(make_content, line, capsys):
    job = job_of(make_content, line, "finished")
    spec = job.spec
    line.set("refused")
    assert train_with_tracker(spec, line, []) is None
    before = (spec.run_path / JOURNAL_NAME).read_bytes()
    assert run_job(job) == EXIT_DONE
    printed = capsys.readouterr().out
    assert "finished is finished already; nothing to train" in printed
    assert "python jobs/sync.py" in printed
    assert (spec.run_path / JOURNAL_NAME).read_bytes() == before


def test_resubmitted_run_continues_the_same_mlflow_run(make_content, line, server):
    spec = spec_of(make_content, line, "resubmitted")
    with claim_run_folder(spec):
        write_spec(spec)
        write_tags(spec.run_path, TAGS)
        first = Tracker(spec, line.url, TAGS, lambda event: None)
        with pytest.raises(InterruptedRunError):
            run_alone(spec, stop_after_epochs=1)
        run = first.close("stopped")
        run.end("KILLED")
    assert run.client.get_run(run.run_id).data.tags["status.state"] == "stopped"
    resumed_run = train_with_tracker(spec, line, [])
    assert resumed_run.run_id == run.run_id
    assert_everything_is_there_once(spec, server)


def test_sync_rejects_a_folder_without_a_run(tmp_path, capsys):
    assert sync([str(tmp_path)]) == EXIT_BAD_INPUT
    assert f"{tmp_path}: has no run in it" in capsys.readouterr().err
