"""The script that sends later what MLflow missed: what it refuses, and its exit status."""

import os
import signal

import pytest
from mlflow import MlflowClient
from support.finished_runs import NUM_POINTS, write_finished_run

from jobs import sync
from service.run.folder import read_spec

HELD_OUT = {"dataset": {"held_out": {"num_images": 64}}}


@pytest.fixture
def spec(make_content, monkeypatch):
    """A finished run, of which a student need not be exported."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return write_finished_run(make_content(**HELD_OUT))


@pytest.fixture
def client(spec):
    return MlflowClient(f"sqlite:///{spec.run_path.parent / 'mlflow.db'}")


def run_id_of(spec):
    return (spec.run_path / "mlflow_run_id").read_text().strip()


@pytest.mark.parametrize("name", ["tags.json", "result.json", "spec.json"])
def test_a_damaged_run_leaves_nothing_in_mlflow(spec, name, capsys):
    (spec.run_path / name).write_text("{")
    assert sync.main([str(spec.run_path)]) == 2
    assert f"{name}: is damaged" in capsys.readouterr().err
    assert not (spec.run_path.parent / "mlflow.db").exists()


def test_a_student_that_cannot_be_published_leaves_no_run(make_content, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    spec = write_finished_run(make_content())
    (spec.run_path / "student.safetensors").write_bytes(b"damaged")
    assert sync.main([str(spec.run_path)]) == 2
    assert "student.safetensors" in capsys.readouterr().err
    assert not (spec.run_path / "mlflow_run_id").exists()


def test_one_that_is_missing_outweighs_bad_input(make_content, spec):
    damaged = write_finished_run(make_content(name="damaged", **HELD_OUT))
    (damaged.run_path / "tags.json").write_text("{")
    away = {"tracking": {"uri": "http://127.0.0.1:9"}}
    gone = write_finished_run(make_content(name="gone", **HELD_OUT, **away))
    assert sync.main([str(spec.run_path), str(damaged.run_path)]) == 2
    assert sync.main([str(path.run_path) for path in (gone, damaged, spec)]) == 1
    assert run_id_of(spec)


@pytest.mark.parametrize("has_everything", [True, False])
@pytest.mark.parametrize("remedy", ["restore", "log anew"])
def test_a_deleted_run_is_named_with_remedies_that_work(
    spec, client, has_everything, remedy, capsys
):
    assert sync.main([str(spec.run_path)]) == 0
    run_id = run_id_of(spec)
    client.delete_run(run_id)
    if not has_everything:
        (spec.run_path / "journal.sent").unlink()
    assert sync.main([str(spec.run_path)]) == 1
    error = capsys.readouterr().err
    assert f"its run {run_id} was deleted there" in error
    assert len(error.splitlines()) == 1
    if remedy == "restore":
        client.restore_run(run_id)
    else:
        path = spec.run_path / "mlflow_destination"
        assert f"remove {path} to log it anew" in error
        path.unlink()
    assert sync.main([str(spec.run_path)]) == 0
    assert (run_id_of(spec) == run_id) == (remedy == "restore")
    assert len(client.get_metric_history(run_id_of(spec), "val/top1")) == NUM_POINTS
    assert client.get_run(run_id_of(spec)).info.status == "FINISHED"


def test_a_run_that_the_server_does_not_know_counts_as_deleted(spec, capsys):
    assert sync.main([str(spec.run_path)]) == 0
    (spec.run_path / "mlflow_run_id").write_text("f" * 32)
    assert sync.main([str(spec.run_path)]) == 1
    assert "was deleted there" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_with_a_line(spec, number, monkeypatch, capsys):
    def stopped(path):
        assert read_spec(path) == spec
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    monkeypatch.setattr(sync, "_sync", stopped)
    assert sync.main([str(spec.run_path)]) == 3
    assert capsys.readouterr().out.splitlines()[-1].startswith("stopped; the same command sends")
    assert signal.getsignal(number) == before
