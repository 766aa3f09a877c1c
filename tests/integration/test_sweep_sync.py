"""A sweep that ran while MLflow was unreachable is sent afterwards."""

import os
import shutil

import mlflow
import pytest
from support.finished_runs import snapshot
from support.mlflow_runs import runs_by_name
from support.training_runs import run_alone

from data_pipeline.files import write_atomically
from service.publish import run_folders
from service.result import collect_result
from service.run.claim import claim_run_folder
from service.run.folder import write_spec, write_tags
from service.run.journal import JOURNAL_NAME, read_events
from service.sweep.loading import parse_sweep
from service.sweep.publish import is_sweep, sync_sweep
from service.sweep.spec import SWEEP_NAME
from service.sweep.study import Search
from service.sweep.trials import SearchTrials
from service.trials.run_trackers import RunTrackers

pytestmark = pytest.mark.slow

UNREACHABLE = "http://127.0.0.1:9"
NUM_TRIALS = 3
FINGERPRINTS = {f"dataset_{split}_fingerprint": split[0] * 64 for split in ("train", "val")}


def search_alone(sweep):
    """Run the sweep in this process, one trial after the other."""
    search = Search(sweep)
    trackers = RunTrackers(UNREACHABLE, {"sweep": sweep.name}, parent=None)
    trials = SearchTrials(sweep, sweep.as_job(), search, trackers, lambda: None)
    while (trial := trials.next()) is not None:
        number, spec = trial
        run_alone(spec)
        for event in read_events(spec.run_path / JOURNAL_NAME):
            if event.kind == "evaluation":
                trials.report(number, event.epoch, event.values)
        collect_result(spec.run_path, spec.schedule.num_epochs)
        trials.end(number, "finished", None)
    trackers.close()
    return search


def check_best_trial(store, parent, runs):
    """Its version and its description say that the accuracy is of held-out images."""
    client = mlflow.MlflowClient(store)
    (version,) = client.search_model_versions("name = 'student'")
    best = runs[f"trial-{int(parent.data.tags['sweep.best_trial']):04d}"]
    summary = f"{best.data.metrics['held_out/top1']:.2%} on held-out images of train"
    assert version.description.splitlines()[0].endswith(f"top-1 {summary}")
    note = best.data.tags["mlflow.note.content"]
    assert note.startswith(f"**top-1 {summary}** after epoch 2")
    assert "[Version 1 of student](#/models/student/versions/1)" in note


def check_copy(sweep, tmp_path, runs):
    """A copy under another name is sent alike; nothing is written where its specs point to."""
    copied = tmp_path / "elsewhere" / "copied"
    shutil.copytree(sweep.sweep_path, copied)
    before = snapshot(sweep.base.checkpoints.storage_path)
    sync_sweep(copied)
    assert snapshot(sweep.base.checkpoints.storage_path) == before
    moved = runs_by_name(os.environ["MLFLOW_TRACKING_URI"])
    assert moved.keys() == runs.keys()
    for name in runs.keys() - {sweep.name}:
        assert moved[name].data.metrics == runs[name].data.metrics
        assert moved[name].data.tags["mlflow.parentRunId"] == moved[sweep.name].info.run_id


def test_sweep_that_mlflow_missed_is_sent_once(make_sweep_content, monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    base = {
        "schedule": {"num_epochs": 2, "milestones": []},
        "tracking": {
            "uri": UNREACHABLE,
            "register_as": "student",
            "promote": {"alias": "champion"},
        },
    }
    budget, scheduler = {"trials": NUM_TRIALS}, {"kind": "none"}
    sweep = parse_sweep(make_sweep_content(base=base, budget=budget, scheduler=scheduler))
    spec = sweep.as_job()
    with claim_run_folder(spec):
        write_spec(spec)
        write_atomically(sweep.sweep_path / SWEEP_NAME, sweep.model_dump_json())
        write_tags(sweep.sweep_path, {"sweep": sweep.name, **FINGERPRINTS})
        search = search_alone(sweep)
    assert run_folders(sweep.base.checkpoints.storage_path) == [sweep.sweep_path]
    assert is_sweep(sweep.sweep_path)

    store = f"sqlite:///{tmp_path / 'store.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    sync_sweep(sweep.sweep_path)
    first = runs_by_name(store)
    sync_sweep(sweep.sweep_path)
    second = runs_by_name(store)

    parent = first[sweep.name]
    assert parent.info.status == "FINISHED"
    assert "Best: trial " in parent.data.tags["mlflow.note.content"]
    assert all("/" in name for run in first.values() for name in run.data.metrics)
    names = [f"trial-{number:04d}" for number in range(NUM_TRIALS)]
    assert sorted(first) == sorted([sweep.name, *names])
    for record, name in zip(search.records(), names, strict=True):
        run = first[name]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == "FINISHED"
        assert run.data.metrics["held_out/top1"] == record.score
        assert float(run.data.params["losses.dtkd.weight"]) == record.params["losses.dtkd.weight"]
    assert {name: run.info.run_id for name, run in second.items()} == {
        name: run.info.run_id for name, run in first.items()
    }
    check_best_trial(store, parent, first)
    # No trial reads val.
    inputs = {(i.tags[0].value, i.dataset.digest[:16]) for i in parent.inputs.dataset_inputs}
    assert inputs == {("training", "t" * 16), ("held out", "t" * 16)}
    client = mlflow.MlflowClient(store)
    history = client.get_metric_history(first[names[0]].info.run_id, "held_out/top1")
    assert [point.value for point in history] == [s for _, s in search.records()[0].curve]

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    check_copy(sweep, tmp_path, first)
    assert runs_by_name(store).keys() == first.keys()
