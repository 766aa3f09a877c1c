"""What becomes of a profile that workers have written: in the log, in MLflow, and in its folder."""

import json

import mlflow
import pytest

from service import profile_job as profile_module
from service.profile_job import profile_job, profiled_spec
from service.run.control import write_abort_reason
from service.spec.job import JobSpec
from service.spec.loading import load_job
from service.training.profiling.profile import Profile
from service.training.profiling.profiler import PROFILE_NAME, TRACE_NAME

PROFILE = Profile({"data": 0.01, "backward": 0.03}, 0.05, 0.04, 32, 2, 2e9, 1e11, "a device")


@pytest.fixture
def job(write_spec, own_tracking, monkeypatch):
    """A job whose workers' part is done by ``written``; no cluster is looked for."""
    monkeypatch.setattr(profile_module, "prepare_job", lambda job, _: ({}, job.spec))
    monkeypatch.setattr(profile_module, "run_training", lambda spec, _: written(spec.run_path))
    return load_job(write_spec())


def written(run_path):
    (run_path / PROFILE_NAME).write_text(json.dumps(PROFILE._asdict()))
    (run_path / TRACE_NAME).write_bytes(b"trace")


def only_folder(job):
    (folder,) = job.spec.checkpoints.storage_path.glob("run-profile-*")
    return folder


def test_mlflow_has_a_run_with_the_figures_and_the_trace(job, capfd):
    assert profile_job(job) == 0
    client = mlflow.MlflowClient(f"sqlite:///{job.spec.checkpoints.storage_path}/mlflow.db")
    experiment = client.get_experiment_by_name(job.spec.tracking.experiment)
    (run,) = client.search_runs([experiment.experiment_id])
    folder = only_folder(job)
    assert run.info.run_name == folder.name
    assert run.info.status == "FINISHED"
    assert run.data.tags["profile"] == "run"
    assert run.data.metrics["profile/mfu"] == pytest.approx(0.4)
    assert run.data.metrics["profile/backward_share"] == pytest.approx(0.75)
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {TRACE_NAME, PROFILE_NAME} <= names
    out = capfd.readouterr().out
    assert "backward              30.00   75.0%" in out
    assert out.count("MFU 40.0%") == 1
    assert out.splitlines()[-1].endswith(str(folder / TRACE_NAME))
    # The run's own folder does not come into being.
    assert not job.spec.run_path.exists()


def test_without_mlflow_the_folder_has_the_profile(job, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert profile_job(job) == 0
    folder = only_folder(job)
    assert json.loads((folder / PROFILE_NAME).read_text())["step_s"] == 0.05
    out = capfd.readouterr().out
    assert "MFU 40.0%" in out
    assert f"MLflow does not have the profile; it is in {folder}" in out


def test_a_job_that_is_aborted_has_no_profile(job, monkeypatch, capfd):
    def aborted(spec, _):
        write_abort_reason(spec.run_path, "dataset.train: has changed", 2)

    monkeypatch.setattr(profile_module, "run_training", aborted)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert profile_job(job) == 2
    out = capfd.readouterr().out
    assert "the profile of run failed: dataset.train: has changed" in out


def test_a_profile_of_the_longest_name_is_a_valid_spec(make_content):
    spec = JobSpec.model_validate(make_content(name="n" * 100, training={"max_skipped_steps": 3}))
    profiled = JobSpec.model_validate_json(profiled_spec(spec).model_dump_json())
    assert profiled.resources.max_failures == 0
    assert profiled.tracking.register_as is None
