"""Jobs on a Ray node without room, and whose workers die in several ways, each named rightly."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from service.run.journal import FAILURES_NAME, read_events
from service.run.status import read_status
from service.spec.errors import EXIT_BAD_INPUT, EXIT_STOPPED

ROOT = Path(__file__).parents[2]
LIMIT_S = 300.0

pytestmark = pytest.mark.slow


@ray.remote(num_cpus=2)
class Occupant:
    """Another job, which has both CPUs."""

    def is_here(self):
        return True


@pytest.fixture(scope="module")
def plan_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def environment(plan_folder):
    """Environment of a driver that joins a node of two CPUs, with workers that read the plan."""
    variables = {
        "RAY_TRAIN_CALLBACKS": "injector.FaultInjector",
        "DTKD_FAULTS": str(plan_folder),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'cluster'}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        context = ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield {**os.environ, "RAY_ADDRESS": context.address_info["address"]}
        ray.shutdown()


@pytest.fixture
def start_job(environment, write_spec, tmp_path):
    """A function that starts a job's driver; it returns its process, run folder and log."""
    drivers = []

    def start(name, **resources):
        tracking = {"uri": "http://127.0.0.1:9"}
        checkpoints = {"every_steps": 1}
        path = write_spec(
            name=name, tracking=tracking, checkpoints=checkpoints, resources=resources
        )
        log_path = tmp_path / f"{name}.log"
        command = [sys.executable, "jobs/distill.py", str(path)]
        with log_path.open("w") as log:
            driver = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        drivers.append(driver)
        return driver, tmp_path / "runs" / name, log_path

    yield start
    for driver in drivers:
        if driver.poll() is None:
            driver.kill()
            driver.wait()


def wait_for(condition, what, log_path):
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"no {what}:\n{log_path.read_text()}"
        time.sleep(0.1)


def plan(folder, *faults):
    """Let worker ``rank`` die at ``step`` as ``kind`` says, each once."""
    for path in folder.iterdir():
        path.unlink()
    entries = [{"rank": rank, "step": step, "kind": kind} for rank, step, kind in faults]
    (folder / "plan.json").write_text(json.dumps(entries))


def failure_texts(run_path):
    return [event.text for event in read_events(run_path / FAILURES_NAME)]


def test_waiting_is_no_failure_and_each_death_has_its_name(start_job, plan_folder):
    """A full GPU, the last of them, would fail again: it is not retried, and names the field."""
    plan(plan_folder, (0, 1, "abort"), (0, 3, "crash"), (0, 5, "memory"))
    occupant = Occupant.remote()
    ray.get(occupant.is_here.remote())
    driver, run_path, log_path = start_job("deaths", max_failures=3, num_workers=1)
    stopped, stopped_path, stopped_log = start_job("stopped", num_workers=[1, 2])
    text = "waiting for 1 CPU, 0 of 2 free, waited 0:00:"
    wait_for(lambda: text in log_path.read_text(), text, log_path)
    wait_for(lambda: text in stopped_log.read_text(), text, stopped_log)
    stopped.terminate()
    assert stopped.wait(LIMIT_S) == EXIT_STOPPED
    assert (failure_texts(stopped_path), read_status(stopped_path).state) == ([], "stopped")
    status = read_status(run_path)
    assert (status.state, status.restarts, status.last_failure) == ("waiting", 0, None)
    assert status.waiting.startswith("waiting for 1 CPU, 0 of 2 free")
    assert failure_texts(run_path) == []

    ray.kill(occupant)
    assert driver.wait(LIMIT_S) == EXIT_BAD_INPUT, log_path.read_text()

    texts = failure_texts(run_path)
    assert len(texts) == 3
    assert texts[0].startswith("worker 0: its process was aborted (SIGABRT)")
    assert texts[1].startswith("worker 0: its process crashed in native code (Segmentation fault)")
    assert "training.max_activation_bytes" in texts[2]
    assert not any("check its memory" in text for text in texts)
    crash = (run_path / "crash_rank0.txt").read_text()
    assert "Segmentation fault" in crash
    assert "injector.py" in crash
    # The last one names the page of the run.
    line = log_path.read_text().splitlines()[-2]
    assert line.startswith("deaths failed: training.max_activation_bytes: 2,000,000,000 for images")
    assert "a smaller training.micro_batch_size than 16" in line
    assert "worker 0" in line
    status = read_status(run_path)
    assert (status.state, status.restarts, status.waiting) == ("failed", 2, None)
