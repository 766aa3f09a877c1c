"""Jobs that something happens to, on a cluster of hosts, beside the same job left alone."""

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
from service.run.journal import FAILURES_NAME, JOURNAL_NAME, read_events
from service.spec.loading import parse_spec

NUM_STEPS = 24
JOB_LIMIT_S = 240.0

SECTIONS = {
    "schedule": {"num_epochs": 6, "milestones": [4]},
    "training": {"ema_decay": 0.9},
    "checkpoints": {"every_steps": 2},
    # MLflow is away: its part has tests of its own, and takes its time.
    "tracking": {"log_every_steps": 3, "uri": "http://127.0.0.1:9"},
    "resources": {"max_failures": 10, "heartbeat_timeout_s": 6, "collective_timeout_s": 20},
}


class Workload:
    """A dataset, a teacher, and the end of the run that was left alone, trained once."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        write_stripes(folder / "train.beton", 256, seed=1)
        write_stripes(folder / "val.beton", 101, seed=2)
        torch.manual_seed(9)
        save_file(build_model("cifar:resnet8", 4).state_dict(), folder / "teacher.safetensors")
        straight = self.content("straight")
        run_together(straight, 2, folder)
        self.straight = parse_spec(straight)

    def content(self, name, **sections):
        """The job's spec under another name; resources given are changed alone."""
        teacher = {"source": str(self.folder / "teacher.safetensors")}
        merged = {**SECTIONS, "teacher": {"model": "cifar:resnet8", "weights": teacher}}
        for key, section in sections.items():
            merged[key] = {**merged.get(key, {}), **section}
        return spec_content(self.folder, self.folder / "runs", name=name, **merged)


class Times(NamedTuple):
    """Seconds from a fault to its being noticed, and to training again."""

    noticed_s: float
    training_s: float


class FaultRun:
    """One job on a cluster, with a plan of faults for its workers."""

    def __init__(self, cluster, workload, name, *faults, **sections):
        self.cluster, self._workload = cluster, workload
        write_plan(cluster.plan_folder, *faults)
        self.content = workload.content(name, **sections)
        self.spec = parse_spec(self.content)
        shutil.rmtree(self.spec.run_path, ignore_errors=True)
        self.spec_path = workload.folder / f"{name}.json"
        self.spec_path.write_text(json.dumps(self.content))
        self.log_path = workload.folder / f"{name}.log"
        self.log_path.unlink(missing_ok=True)
        self.driver = None

    def start(self, *, as_ray_job=False):
        self.driver = self.cluster.submit(self.spec_path, self.log_path, as_ray_job=as_ray_job)

    def wait(self, limit_s=JOB_LIMIT_S):
        """The exit status of the driver."""
        return self.driver.wait(limit_s)

    def wait_for(self, condition, what, limit_s=JOB_LIMIT_S):
        deadline_s = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no {what}:\n{self.log}")
            if self.driver.poll() is not None and not condition():
                raise AssertionError(f"ended without {what}:\n{self.log}")
            time.sleep(0.05)

    def wait_for_fault(self, number):
        """Until a worker has come to a fault of the plan; the Unix time when it did."""
        path = self.cluster.plan_folder / f"fired-{number}"
        self.wait_for(path.exists, f"fault {number}")
        return path.stat().st_mtime

    def let_go(self, number):
        """End a pause."""
        (self.cluster.plan_folder / f"go-{number}").touch()

    def request_path(self, purpose):
        """Where workers find that they are asked to leave."""
        return self.spec.run_path / f"{REQUEST_PREFIX}{purpose}"

    def kill_driver(self):
        stop_process(self.driver)
        self.driver.wait(30)

    @property
    def log(self):
        return self.log_path.read_text()

    @property
    def starts(self):
        """Unix times when workers began to train."""
        events = read_events(self.spec.run_path / JOURNAL_NAME)
        return [event.time_ms / 1000 for event in events if event.kind == "start"]

    @property
    def failures(self):
        """(Unix time, text) of what the controller noticed."""
        events = read_events(self.spec.run_path / FAILURES_NAME)
        return [(event.time_ms / 1000, event.text) for event in events]

    @property
    def status(self):
        return json.loads((self.spec.run_path / "status.json").read_text())

    def times(self, fault_time):
        """How long after a fault it was noticed, and made up for."""
        noticed = min((t for t, _ in self.failures if t >= fault_time), default=float("nan"))
        training = min((t for t in self.starts if t >= fault_time), default=float("nan"))
        return Times(noticed - fault_time, training - fault_time)

    def losses(self):
        """What the run lost against the one that was left alone; empty if nothing."""
        straight, faults = self._workload.straight, []
        if not (self.spec.run_path / "result.json").exists():
            return ["the result"]
        ours, theirs = final(self.spec), final(straight)
        if ours[1] != theirs[1]:
            faults.append(f"progress: {ours[1]} instead of {theirs[1]}")
        if not all(torch.equal(ours[0][name], value) for name, value in theirs[0].items()):
            faults.append("weights differ")
        if not same_tensors(self.spec.run_path / "student.safetensors", straight):
            faults.append("the student differs")
        if loss_series(self.spec) != loss_series(straight):
            faults.append("the series of metrics differs")
        partial = [p.name for p in self.spec.run_path.iterdir() if "partial" in p.name]
        if partial:
            faults.append(f"left in storage: {partial}")
        return faults


def same_tensors(path, straight):
    from service.training.checkpoint import final_student_path, newest_checkpoint

    ours = load_file(path)
    theirs = load_file(final_student_path(newest_checkpoint(straight.run_path)))
    return all(torch.equal(ours[name], value) for name, value in theirs.items())
