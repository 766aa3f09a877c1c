"""What is written for a run's folder depends on where it is, not on where its spec says."""

import json
import os
import shutil
import sqlite3

import mlflow
import pytest
from support.finished_runs import NUM_POINTS, snapshot, write_finished_run

from jobs import sync
from service.compare.jobs import run_specs
from service.compare.loading import parse_comparison
from service.compare.publish import child_runs
from service.compare.resuming import read_comparison
from service.run.folder import located, read_spec, write_spec
from service.spec.loading import parse_spec
from service.sweep.loading import parse_sweep
from service.sweep.publish import run_folders
from service.sweep.resuming import read_sweep


@pytest.fixture
def moved(make_content, tmp_path, monkeypatch):
    """A copy, under another name, of a run whose spec points to a decoy."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # Without an export of the student, which is tested elsewhere.
    held_out = {"dataset": {"held_out": {"num_images": 64}}}
    decoy = write_finished_run(make_content(checkpoints={"storage_path": str(tmp_path / "decoy")}))
    spec = write_finished_run(make_content(**held_out))
    copied = tmp_path / "elsewhere" / "a copy"
    shutil.copytree(spec.run_path, copied)
    change_spec(copied, "checkpoints", storage_path=str(decoy.run_path.parent))
    return copied


def change_spec(run_path, section, **fields):
    content = json.loads((run_path / "spec.json").read_text())
    content[section] |= fields
    (run_path / "spec.json").write_text(json.dumps(content))


def test_only_the_folder_and_the_database_beside_it_are_written(moved, tmp_path):
    before = snapshot(tmp_path)
    assert sync.main([str(moved)]) == 0
    after = snapshot(tmp_path)
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    storage = moved.parent
    outside = {path for path in changed if moved not in (path, *path.parents)}
    assert outside <= {storage / "mlflow.db", storage / "mlflow-artifacts"} | set(
        (storage / "mlflow-artifacts").rglob("*")
    )
    assert moved / "mlflow_run_id" in changed
    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    run_id = (moved / "mlflow_run_id").read_text().strip()
    assert len(client.get_metric_history(run_id, "val/top1")) == NUM_POINTS

    assert "MLFLOW_TRACKING_URI" not in os.environ

    # Somebody else's database may name any folder for the files.
    with sqlite3.connect(storage / "mlflow.db") as connection:
        connection.execute(
            "UPDATE runs SET artifact_uri = ?", (str(tmp_path / "decoy" / "artifacts"),)
        )
    (moved / "journal.sent").unlink()
    assert sync.main([str(moved)]) == 2
    assert not (tmp_path / "decoy" / "artifacts").exists()


@pytest.mark.parametrize("prefix", ["sqlite:///", "sqlite+pysqlite:///", "file://", ""])
def test_database_elsewhere_must_be_named_by_the_user(moved, tmp_path, prefix, capsys):
    change_spec(moved, "tracking", uri=f"{prefix}{tmp_path / 'decoy' / 'other.db'}")
    before = snapshot(tmp_path / "decoy")
    assert sync.main([str(moved)]) == 2
    assert "tracking.uri: is " in (error := capsys.readouterr().err)
    assert "set MLFLOW_TRACKING_URI" in error
    assert snapshot(tmp_path / "decoy") == before


@pytest.mark.parametrize("linked", ["run", ".lock"])
def test_links_in_a_storage_path_are_not_followed(moved, tmp_path, linked, capsys):
    victim = tmp_path / "decoy" / "run"
    if linked == "run":
        (moved.parent / "run").symlink_to(victim)
    else:
        (moved / linked).unlink(missing_ok=True)
        (moved / linked).symlink_to(victim / "journal.jsonl")
    change_spec(moved, "tracking", uri="http://127.0.0.1:9")
    before = snapshot(tmp_path / "decoy")
    # The server of the run that is no link does not answer.
    assert sync.main([str(moved.parent)]) == (1 if linked == "run" else 2)
    assert "is a symbolic link" in capsys.readouterr().err
    assert snapshot(tmp_path / "decoy") == before


def test_folder_under_another_path_of_the_same_storage_is_where_its_spec_says(
    make_content, tmp_path
):
    spec = parse_spec(make_content())
    spec.run_path.mkdir(parents=True)
    write_spec(spec)
    alias = tmp_path / "alias"
    alias.symlink_to(spec.run_path.parent)
    assert read_spec(alias / spec.name).run_path == spec.run_path
    other = located(spec, tmp_path / "other" / "renamed")
    assert other.run_path == tmp_path / "other" / "renamed"
    assert other.content_hash() == spec.content_hash()


def test_moved_sweep_and_its_runs(make_sweep_content, tmp_path):
    sweep = parse_sweep(make_sweep_content())
    trial_path = sweep.sweep_path / "trials" / "trial-0000"
    trial_path.mkdir(parents=True)
    (sweep.sweep_path / "sweep.json").write_text(sweep.model_dump_json())
    (trial_path / "spec.json").write_text(sweep.base.model_dump_json())
    assert read_sweep(sweep.sweep_path) == sweep

    moved_path = tmp_path / "elsewhere" / "renamed"
    shutil.move(sweep.sweep_path, moved_path)
    moved = read_sweep(moved_path)
    assert moved.sweep_path == moved.as_job().run_path == moved_path
    assert moved.base.checkpoints.storage_path == moved_path.parent
    assert (moved.name, moved.as_job().name) == (sweep.name, sweep.name)
    (found,) = run_folders(moved)
    assert found == read_spec(found).run_path == moved_path / "trials" / "trial-0000"

    (moved_path / "trials").rename(tmp_path / "trials")
    (moved_path / "trials").symlink_to(tmp_path / "trials")
    with pytest.raises(ValueError, match="trials: is a symbolic link"):
        list(run_folders(moved))


def test_moved_comparison_and_its_runs(make_compare_content, tmp_path):
    compare = parse_comparison(make_compare_content()).compare
    key, spec = next(iter(run_specs(compare).items()))
    spec.run_path.mkdir(parents=True)
    write_spec(spec)
    (compare.compare_path / "compare.json").write_text(compare.model_dump_json())
    moved_path = tmp_path / "elsewhere" / "renamed"
    shutil.move(compare.compare_path, moved_path)

    moved = read_comparison(moved_path)
    assert moved.compare_path == moved_path
    assert run_specs(moved)[key].run_path == moved_path / "runs" / key.name
    assert list(child_runs(moved)) == [moved_path / "runs" / key.name]
    (moved_path / "runs").rename(tmp_path / "others")
    (moved_path / "runs").symlink_to(tmp_path / "others")
    with pytest.raises(ValueError, match="runs: is a symbolic link"):
        list(child_runs(moved))


@pytest.mark.parametrize("kind", ["sweep", "comparison"])
def test_moved_runs_are_sent_to_the_new_database_beside_their_parent(
    kind, make_sweep_content, make_compare_content, tmp_path, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # The export of students is tested elsewhere.
    monkeypatch.setattr("service.publish.log_student", lambda *_: None)
    if kind == "sweep":
        jobs = parse_sweep(make_sweep_content())
        (name, child) = "sweep", jobs.as_job().located_at(jobs.sweep_path / "trials" / "trial-0000")
    else:
        jobs = parse_comparison(make_compare_content()).compare
        name, child = "compare", next(iter(run_specs(jobs).values()))
    write_finished_run(child.model_dump(mode="json"))
    folder = jobs.as_job().run_path
    write_spec(jobs.as_job())
    (folder / f"{name}.json").write_text(jobs.model_dump_json())
    copied = tmp_path / "elsewhere" / "copy"
    shutil.copytree(folder, copied)
    for _ in range(2):
        assert sync.main([str(copied)]) == 0
    assert not (folder.parent / "mlflow.db").exists()
    runs = mlflow.MlflowClient(f"sqlite:///{copied.parent / 'mlflow.db'}").search_runs(["1"])
    assert len(runs) == 2
    assert {run.info.status for run in runs} <= {"FINISHED", "FAILED", "KILLED"}
    (sent,) = (run for run in runs if "val/top1" in run.data.metrics)
    (parent,) = (run for run in runs if run is not sent)
    assert sent.data.tags["mlflow.parentRunId"] == parent.info.run_id
    artifacts = (copied.parent / "mlflow-artifacts").as_uri()
    assert {run.info.artifact_uri.startswith(artifacts) for run in runs} == {True}
