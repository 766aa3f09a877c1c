"""A job or a sweep that is stopped before it trains leaves its folder as it was."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service import job as job_module
from service.compare import job as compare_module
from service.compare.job import run_comparison
from service.compare.loading import parse_comparison
from service.job import run_job
from service.spec.loading import load_job
from service.sweep import job as sweep_module
from service.sweep.job import run_sweep
from service.sweep.loading import load_sweep

ROOT = Path(__file__).parents[2]
KINDS = pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])


@pytest.fixture
def job(write_spec):
    return load_job(write_spec())


@pytest.fixture
def sweep(make_sweep_content, tmp_path):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(make_sweep_content()))
    return load_sweep(path)


@pytest.fixture
def stop_at_tracking_check(monkeypatch, kind):
    """Both kinds of signal arrive while MLflow is asked; no cluster is looked for."""
    asking = {job_module: "check_tracking", sweep_module: "check_tracking"}
    asking[compare_module] = "unanswered"
    for module, name in asking.items():
        monkeypatch.setattr(module, name, lambda _: os.kill(os.getpid(), kind))
        monkeypatch.setattr(module, "check_address", lambda: None)


@KINDS
def test_new_job_leaves_no_folder(job, stop_at_tracking_check, capfd):
    assert run_job(job) == 3
    assert not job.spec.run_path.exists()
    out, err = capfd.readouterr()
    assert out.splitlines() == ["run was stopped; submit the same spec to resume it"]
    assert err == ""


@KINDS
def test_new_comparison_leaves_no_folder(make_compare_content, stop_at_tracking_check, capfd):
    loaded = parse_comparison(make_compare_content())
    assert run_comparison(loaded) == 3
    assert not loaded.compare.compare_path.exists()
    out, err = capfd.readouterr()
    assert out.splitlines() == ["cmp was stopped; submit the same comparison to resume it"]
    assert "Traceback" not in err


@KINDS
def test_new_sweep_leaves_no_folder(sweep, stop_at_tracking_check, capfd):
    assert run_sweep(sweep, 1) == 3
    assert not sweep.sweep.sweep_path.exists()
    out, err = capfd.readouterr()
    assert out.splitlines() == ["sweep was stopped; submit the same sweep to resume it"]
    assert "Traceback" not in err


@KINDS
def test_run_that_had_failed_is_stopped(job, stop_at_tracking_check):
    run_path = job.spec.run_path
    run_path.mkdir(parents=True)
    (run_path / "spec.json").write_text(job.spec.model_dump_json())
    (run_path / "status.json").write_text(json.dumps({"name": "run", "state": "failed", "step": 7}))
    assert run_job(job) == 3

    status = json.loads((run_path / "status.json").read_text())
    assert (status["state"], status["step"]) == ("stopped", 7)


@pytest.mark.parametrize("name", ["distill", "sweep"])
def test_imports_end_without_a_traceback(name):
    """SIGINT arrives in the first import that takes long."""
    code = f"""
import os, runpy, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "pydantic":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
runpy.run_path("jobs/{name}.py", run_name="__main__")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")
