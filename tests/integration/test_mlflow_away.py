"""MLflow slow or away at any time: training does not notice, and everything arrives once."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.mlflow_server import Line, mlflow_server
from support.training_runs import InterruptedRunError, run_alone

from data_pipeline.files import write_atomically
from jobs.sync import main as sync
from service.job import run_job
from service.publish import publish, sync_run
from service.result import collect_result
from service.run.folder import TAGS_NAME, claim_run_folder
from service.run.journal import JOURNAL_NAME, read_events
from service.spec.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED
from service.spec.loading import parse_spec
from service.tracking import tracker as tracker_module
from service.tracking.mlflow_run import TRACKING_ERRORS, flattened
from service.tracking.tracker import Tracker

ROOT = Path(__file__).parents[2]
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


def spec_of(make_content, line, name):
    tracking = {"uri": line.url, "log_every_steps": 1, "register_as": f"students-{name}"}
    return parse_spec(make_content(name=name, tracking=tracking))


def train_beside_tracker(spec, line, changes):
    """Train with a tracker on the journal; ``changes`` are (step, mode) of the line.

    Returns the run if MLflow got everything by the end, as a job would know it.
    """
    with claim_run_folder(spec):
        write_atomically(spec.run_path / TAGS_NAME, json.dumps(TAGS))
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
        result = collect_result(spec, 1.0)
        run = tracker.close("finished")
        if run is not None:
            publish(result, spec, run)
        return run


def assert_all_there_once(spec, server):
    client = MlflowClient(f"http://127.0.0.1:{server}")
    experiment = client.get_experiment_by_name(spec.tracking.experiment)
    runs = client.search_runs([experiment.experiment_id], f"tags.mlflow.runName = '{spec.name}'")
    assert len(runs) == 1
    run = runs[0]
    assert run.info.status == "FINISHED"
    assert run.data.params == flattened(spec)
    assert TAGS.items() <= run.data.tags.items()
    assert run.data.tags["status.state"] == "finished"
    told = [
        (name, event.step, value)
        for event in read_events(spec.run_path / JOURNAL_NAME)
        for name, value in event.values.items()
    ]
    names = {name for name, *_ in told}
    logged = [
        (name, point.step, point.value)
        for name in names
        for point in client.get_metric_history(run.info.run_id, name)
    ]
    assert sorted(logged) == sorted(told)
    assert {"loss", "val_top1"} <= names
    assert len(client.get_metric_history(run.info.run_id, "last_top1")) == 1
    paths = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"spec.json", "student"} <= paths
    models = client.search_logged_models([experiment.experiment_id])
    assert len([model for model in models if model.source_run_id == run.info.run_id]) == 1
    assert len(client.search_model_versions(f"name = '{spec.tracking.register_as}'")) == 1


@pytest.mark.parametrize(
    ("name", "mode", "changes"),
    [
        ("start", "refused", [(3, "up")]),
        ("middle", "up", [(2, "refused"), (5, "up")]),
        ("dead", "up", [(2, "dead"), (5, "up")]),
    ],
)
def test_server_that_comes_back_gets_everything_once(
    make_content, line, server, name, mode, changes
):
    spec = spec_of(make_content, line, name)
    line.set(mode)
    assert train_beside_tracker(spec, line, changes) is not None
    assert_all_there_once(spec, server)


def test_slow_server_gets_everything_once(make_content, line, server):
    spec = spec_of(make_content, line, "slow")
    line.set("up", delay_s=0.05)
    assert train_beside_tracker(spec, line, []) is not None
    assert_all_there_once(spec, server)


@pytest.mark.parametrize(
    ("name", "mode", "changes"),
    [("whole", "refused", []), ("whole-dead", "dead", []), ("end", "up", [(4, "refused")])],
)
def test_what_is_left_is_sent_by_sync(make_content, line, server, name, mode, changes):
    spec = spec_of(make_content, line, name)
    line.set(mode)
    start_s = time.monotonic()
    assert train_beside_tracker(spec, line, changes) is None
    assert time.monotonic() - start_s < 30
    line.set("up")
    assert "and the student" in sync_run(spec.run_path)
    assert_all_there_once(spec, server)
    assert sync_run(spec.run_path) == f"{spec.name}: MLflow has everything"


def test_sync_says_what_is_left_and_sends_it(make_content, line, server, capsys):
    spec = spec_of(make_content, line, "command")
    line.set("refused")
    assert train_beside_tracker(spec, line, []) is None
    arguments = [str(spec.checkpoints.storage_path)]
    command = [sys.executable, "jobs/sync.py", *arguments]
    away = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert away.returncode == EXIT_FAILED
    assert f"{spec.name}: MLflow did not take it" in away.stderr
    assert "Traceback" not in away.stderr
    line.set("up")
    assert sync(arguments) == EXIT_DONE
    assert "and the student" in capsys.readouterr().out
    assert_all_there_once(spec, server)


def test_sending_that_breaks_off_anywhere_is_made_up_for(make_content, line, server):
    """The line is cut after n pieces of requests, for every seventh n until all went through."""
    spec = spec_of(make_content, line, "broken")
    line.set("refused")
    assert train_beside_tracker(spec, line, []) is None
    num_broken = 0
    while True:
        line.set("up", num_pieces=7 * num_broken + 2)
        try:
            sync_run(spec.run_path)
        except TRACKING_ERRORS:
            num_broken += 1
        else:
            break
    assert num_broken > 3
    assert_all_there_once(spec, server)


def test_finished_run_trains_nothing_though_mlflow_is_away(make_content, line, capsys):
    spec = spec_of(make_content, line, "finished")
    line.set("refused")
    assert train_beside_tracker(spec, line, []) is None
    before = (spec.run_path / JOURNAL_NAME).read_bytes()
    assert run_job(spec) == 0
    printed = capsys.readouterr().out
    assert "finished is finished already; nothing to train" in printed
    assert "python jobs/sync.py" in printed
    assert (spec.run_path / JOURNAL_NAME).read_bytes() == before


def test_run_that_is_submitted_again_goes_on_in_the_same_mlflow_run(make_content, line, server):
    spec = spec_of(make_content, line, "again")
    with claim_run_folder(spec):
        write_atomically(spec.run_path / TAGS_NAME, json.dumps(TAGS))
        first = Tracker(spec, line.url, TAGS, lambda event: None)
        with pytest.raises(InterruptedRunError):
            run_alone(spec, stop_after_reports=1)
        run = first.close("stopped")
        run.end("KILLED")
    assert run.client.get_run(run.run_id).data.tags["status.state"] == "stopped"
    again = train_beside_tracker(spec, line, [])
    assert again.run_id == run.run_id
    assert_all_there_once(spec, server)


def test_sync_refuses_a_folder_without_a_run(tmp_path, capsys):
    assert sync([str(tmp_path)]) == EXIT_BAD_INPUT
    assert f"{tmp_path}: has no run in it" in capsys.readouterr().err
