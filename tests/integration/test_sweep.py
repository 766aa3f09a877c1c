"""Sweeps through jobs/sweep.py on a Ray cluster of this machine, with an MLflow store."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from support.training_runs import run_alone

from jobs.sweep import main as sweep_here
from service.run.journal import JOURNAL_NAME, read_events
from service.spec.loading import parse_spec
from service.sweep.loading import parse_sweep
from service.sweep.study import Search, TrialEnd
from service.sweep.trials import trial_spec

ROOT = Path(__file__).parents[2]
LIMIT_S = 240
NUM_TRIALS = 4

pytestmark = pytest.mark.slow


@pytest.fixture
def write_sweep(make_sweep_content, tmp_path):
    def write(**fields):
        base = {
            "schedule": {"num_epochs": 3, "milestones": []},
            # Outside the search space: the best settings are never the base's own.
            "losses": {"ce": {}, "dtkd": {"base_temperature": 9}, "kd": {"weight": 1}},
            "training": {"global_batch_size": 64, "micro_batch_size": 64},
            "resources": {"num_workers": 1, "cpus_per_worker": 1},
            "tracking": {
                "log_every_steps": 3,
                "register_as": "student",
                "promote": {"alias": "champion"},
            },
        }
        content = make_sweep_content(base=base, **fields)
        path = tmp_path / f"{content['name']}.json"
        path.write_text(json.dumps(content))
        return path

    return write


def start(path, log_path, *arguments):
    with log_path.open("a") as log:
        return subprocess.Popen(
            [sys.executable, "jobs/sweep.py", str(path), *arguments],
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": "local"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_for_run(sweep, name, process, log_path):
    """Wait until a run has started to train."""
    deadline_s = time.monotonic() + LIMIT_S
    while not starts_of_runs(sweep).get(name):
        assert process.poll() is None, log_path.read_text()
        assert time.monotonic() < deadline_s, log_path.read_text()
        time.sleep(0.05)


def search_alone(sweep):
    """The same search in this process, without Ray, one trial after the other."""
    sweep.sweep_path.mkdir(parents=True)
    search = Search(sweep)
    while (suggestion := search.next()) is not None:
        spec = trial_spec(sweep, sweep.base, suggestion.number, suggestion.point)
        run_alone(spec)
        events = read_events(spec.run_path / JOURNAL_NAME)
        scores = {e.epoch: e.values[sweep.metric_name] for e in events if e.kind == "evaluation"}
        state = "finished"
        for epoch, score in scores.items():
            if search.report(suggestion.number, epoch, score) and epoch < max(scores):
                state = "stopped"
                break
        search.end(suggestion.number, TrialEnd(state, 0.0))


def outcome(sweep):
    """The trials of a search, without what depends on clocks."""
    return [
        (record.number, record.state, dict(record.params), record.curve)
        for record in Search(sweep).records()
    ]


def status(sweep):
    return json.loads((sweep.sweep_path / "status.json").read_text())


def starts_of_runs(sweep):
    """Number of times that each trial and each confirming run started to train."""
    return {
        path.parent.name: sum(event.kind == "start" for event in read_events(path))
        for path in sorted(sweep.sweep_path.glob(f"*/*/{JOURNAL_NAME}"))
    }


def stop_while_confirming(sweep, path, log_path):
    """Submit the sweep, and stop it with SIGTERM and SIGINT while it confirms.

    Its progress is shown for the first time while workers start, long before they have trained.
    """
    process = start(path, log_path, "--confirm", "1")
    deadline_s = time.monotonic() + LIMIT_S
    while "killed: confirming, 0 of 2 runs done" not in log_path.read_text():
        assert process.poll() is None, log_path.read_text()
        assert time.monotonic() < deadline_s, log_path.read_text()
        time.sleep(0.05)
    process.terminate()
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT_S) == 3, log_path.read_text()
    state = status(sweep)
    counts = (state["num_ended"], state["num_confirmed"], state["num_confirm_runs"])
    assert (state["state"], counts) == ("stopped", (NUM_TRIALS, 0, 2))
    log = log_path.read_text()
    assert "killed was stopped; submit the same sweep to resume" in log
    # Neither Python's tracebacks nor those that Ray repeats.
    assert ", line " not in log
    assert "signal" not in log.lower()


def test_killed_sweep_resumes_with_the_same_trials(write_sweep, tmp_path, monkeypatch, capsys):
    # MLflow sets it for a process that tracks, such as another test's.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fields = {
        "algorithm": {"kind": "random", "seed": 3},
        "budget": {"trials": NUM_TRIALS},
        "scheduler": {"kind": "asha", "min_epochs": 1},
        "concurrency": 1,
        "progress_interval_s": 1,
    }
    reference, sweep = (
        parse_sweep(json.loads(write_sweep(name=name, **fields).read_text()))
        for name in ("reference", "killed")
    )
    search_alone(reference)
    log_path = tmp_path / "killed.log"
    process = start(tmp_path / "killed.json", log_path)
    wait_for_run(sweep, "trial-0003", process, log_path)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = starts_of_runs(sweep)
    stop_while_confirming(sweep, tmp_path / "killed.json", log_path)
    process = start(tmp_path / "killed.json", log_path, "--confirm", "1")
    assert process.wait(LIMIT_S) == 0, log_path.read_text()

    assert outcome(sweep) == outcome(reference)
    after = starts_of_runs(sweep)
    ended = [f"trial-{number:04d}" for number in range(3)]
    assert [after[name] for name in ended] == [before[name] for name in ended]
    # Stopped before it was finished, and resumed.
    assert after["best-seed-0"] in (1, 2)
    assert after["default-seed-0"] == 1
    assert sum(n for name, n in after.items() if name.startswith("trial")) <= NUM_TRIALS + 1
    assert not list(sweep.sweep_path.glob("trials/*/checkpoint_*"))

    assert sweep_here([str(tmp_path / "killed.json")]) == 0
    assert "no trial is run" in capsys.readouterr().out
    assert starts_of_runs(sweep) == after
    assert (status(sweep)["state"], status(sweep)["num_ended"]) == ("finished", NUM_TRIALS)
    check_outputs(sweep, log_path.read_text())


def check_outputs(sweep, log):
    """The files, the log and the MLflow runs of a finished and confirmed sweep."""
    folder = sweep.sweep_path
    best = parse_spec(json.loads((folder / "best.json").read_text()))
    records = Search(sweep).records()
    winner = max((r for r in records if r.state == "finished"), key=lambda r: r.score)
    assert best.losses.dtkd.weight == winner.params["losses.dtkd.weight"]
    assert best.dataset == sweep.base.dataset
    assert len((folder / "trials.csv").read_text().splitlines()) == NUM_TRIALS + 1
    assert "<html" in (folder / "sweep.html").read_text()
    assert "by epoch" in (folder / "sweep.html").read_text()
    assert "settings tried" in log
    assert "more seeds are needed" in log
    # No trial was evaluated on val, and no checkpoints remain.
    for path in folder.glob(f"trials/*/{JOURNAL_NAME}"):
        names = {name for e in read_events(path) if e.kind == "evaluation" for name in e.values}
        assert not any(name.startswith("val/") for name in names)
        assert not list(path.parent.glob("checkpoint_*"))
    confirmed = folder / "confirm" / "best-seed-0" / JOURNAL_NAME
    assert [e.epoch for e in read_events(confirmed) if e.kind == "evaluation"] == [3]
    check_mlflow(sweep, winner)


def check_mlflow(sweep, winner):
    client = mlflow.MlflowClient(f"sqlite:///{sweep.base.checkpoints.storage_path}/mlflow.db")
    experiment = client.get_experiment_by_name("dtkd")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs.pop(sweep.name)
    assert parent.info.status == "FINISHED"
    assert (
        float(parent.data.params["best.losses.dtkd.weight"]) == winner.params["losses.dtkd.weight"]
    )
    assert parent.data.metrics["sweep/num_tried"] == NUM_TRIALS
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert sorted(runs) == [
        "best-seed-0",
        "default-seed-0",
        *(f"trial-{n:04d}" for n in range(NUM_TRIALS)),
    ]
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"best.json", "trials.csv", "sweep.html", "confirm.json"} <= artifacts
    version = client.get_model_version_by_alias("student", "champion")
    assert version.tags["trained_by_run"] == runs["best-seed-0"].info.run_id
