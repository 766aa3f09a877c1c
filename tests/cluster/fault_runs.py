"""Jobs with faults on a cluster of hosts, compared with the same job without faults."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from hosts import stop_process
from injector import write_plan
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.spec_contents import spec_content, write_stripes
from support.training_runs import final, loss_series, run_together

from service.models.build import build_model
from service.run.control import REQUEST_PREFIX
from service.run.folder import STUDENT_NAME
from service.run.journal import FAILURES_NAME, JOURNAL_NAME, read_events
from service.run.result import RESULT_NAME
from service.spec.loading import parse_job, parse_spec
from service.training.checkpoint import final_student_path, newest_checkpoint

NUM_STEPS = 24
JOB_LIMIT_S = 240.0

SECTIONS = {
    "schedule": {"num_epochs": 6, "milestones": [4]},
    "training": {"ema_decay": 0.9},
    "checkpoints": {"every_steps": 2},
    # No MLflow: it has its own tests, and takes time.
    "tracking": {"log_every_steps": 3, "uri": "http://127.0.0.1:9"},
    "resources": {"max_failures": 10, "heartbeat_timeout_s": 6, "collective_timeout_s": 20},
}


class Workload:
    """A dataset, a teacher, and a reference run without faults, which is trained once."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        write_stripes(folder / "train.beton", 256, seed=1)
        write_stripes(folder / "val.beton", 101, seed=2)
        torch.manual_seed(9)
        save_file(build_model("cifar:resnet8", 4).state_dict(), folder / "teacher.safetensors")
        content = self.content("reference")
        run_together(content, 2, folder)
        self.reference = parse_spec(content)

    def content(self, name, **sections):
        """The content of the job's spec under another name; given fields replace the defaults."""
        teacher = {"source": str(self.folder / "teacher.safetensors")}
        merged = {**SECTIONS, "teacher": {"model": "cifar:resnet8", "weights": teacher}}
        for key, section in sections.items():
            merged[key] = {**merged.get(key, {}), **section}
        return spec_content(self.folder, self.folder / "runs", name=name, **merged)


class Times(NamedTuple):
    """Seconds from a fault until it is noticed, and until training has resumed."""

    noticed_s: float
    resumed_s: float


class FaultRun:
    """One job on a cluster, with a plan of faults for its workers."""

    def __init__(self, cluster, workload, name, *faults, **sections):
        self.cluster, self._reference = cluster, workload.reference
        write_plan(cluster.plan_folder, *faults)
        content = workload.content(name, **sections)
        self.job = parse_job(content)
        self.spec = self.job.spec
        shutil.rmtree(self.spec.run_path, ignore_errors=True)
        self.spec_path = workload.folder / f"{name}.json"
        self.spec_path.write_text(json.dumps(content))
        self.log_path = workload.folder / f"{name}.log"
        self.log_path.unlink(missing_ok=True)
        self.driver = None

    def start(self, *, as_ray_job=False):
        self.driver = self.cluster.submit(self.spec_path, self.log_path, as_ray_job=as_ray_job)

    def wait(self, limit_s=JOB_LIMIT_S):
        """Wait for the driver; returns its exit status."""
        return self.driver.wait(limit_s)

    def wait_for(self, condition, what, limit_s=JOB_LIMIT_S):
        """Wait until ``condition()`` is true; ``what`` names it in errors."""
        deadline_s = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no {what}:\n{self.log}")
            if self.driver.poll() is not None and not condition():
                raise AssertionError(f"ended without {what}:\n{self.log}")
            time.sleep(0.05)

    def wait_for_fault(self, number):
        """Wait until a worker reaches a fault of the plan; returns the Unix time when it did."""
        path = self.cluster.plan_folder / f"fired-{number}"
        self.wait_for(path.exists, f"fault {number}")
        return path.stat().st_mtime

    def end_pause(self, number):
        """Let the worker continue that pauses at a fault of the plan."""
        (self.cluster.plan_folder / f"continue-{number}").touch()

    def request_path(self, request):
        """The file with which workers are requested to stop or to resize."""
        return self.spec.run_path / f"{REQUEST_PREFIX}{request}"

    def kill_driver(self):
        stop_process(self.driver)
        self.driver.wait(30)

    @property
    def log(self):
        return self.log_path.read_text()

    @property
    def starts(self):
        """Unix times when workers started to train."""
        events = read_events(self.spec.run_path / JOURNAL_NAME)
        return [event.time_ms / 1000 for event in events if event.kind == "start"]

    @property
    def failures(self):
        """(Unix time, text) of the failures and stops that the controller logged."""
        events = read_events(self.spec.run_path / FAILURES_NAME)
        return [(event.time_ms / 1000, event.text) for event in events]

    @property
    def status(self):
        return json.loads((self.spec.run_path / "status.json").read_text())

    def times(self, fault_time):
        """How long it took to notice a fault and to resume training."""
        noticed = min((t for t, _ in self.failures if t >= fault_time), default=float("nan"))
        resumed = min((t for t in self.starts if t >= fault_time), default=float("nan"))
        return Times(noticed - fault_time, resumed - fault_time)

    def differences(self):
        """Differences from the reference run, as text; empty if there are none."""
        run_path, reference = self.spec.run_path, self._reference
        if not (run_path / RESULT_NAME).exists():
            return ["no result"]
        found = []
        (weights, progress), (expected_weights, expected_progress) = (
            final(self.spec),
            final(reference),
        )
        if progress != expected_progress:
            found.append(f"progress: {progress} instead of {expected_progress}")
        if not are_equal(weights, expected_weights):
            found.append("weights differ")
        expected_student = load_file(final_student_path(newest_checkpoint(reference.run_path)))
        if not are_equal(load_file(run_path / STUDENT_NAME), expected_student):
            found.append("the student differs")
        if loss_series(self.spec) != loss_series(reference):
            found.append("the series of metrics differs")
        partial = [path.name for path in run_path.iterdir() if "partial" in path.name]
        if partial:
            found.append(f"partial files: {partial}")
        return found


def are_equal(weights, expected):
    return all(torch.equal(weights[name], value) for name, value in expected.items())
