"""Trials under Ray Tune: how many run at a time, failures, and resources after a stop.

Most are stubs that train nothing; others train, in their own process or with two workers.
"""

import os
import signal
import sys
import time

import psutil
import pytest
import ray
import torch
from ray import tune
from safetensors.torch import load_file

from service.cluster.launch import run_training
from service.result import collect_result
from service.run.folder import STUDENT_NAME, read_spec, write_spec
from service.run.journal import JOURNAL_NAME, read_events
from service.spec.job import JobSpec
from service.spec.loading import parse_spec
from service.sweep.loading import parse_sweep
from service.sweep.study import Search
from service.sweep.trials import TRIALS_NAME, SearchTrials, trial_name
from service.training.checkpoint import is_intact, newest_checkpoint
from service.trials.capacity import trial_resources
from service.trials.run_trackers import RunTrackers
from service.trials.runner import run_trials
from service.trials.source import TrialState

pytestmark = pytest.mark.slow

NUM_CPUS = 2
LIMIT_S = 120
UNREACHABLE = "http://127.0.0.1:9"
STUB = {"memory": 5e8}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A Ray node without the dashboard, which a sweep does not need."""
    # Workers cannot import a test.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init("local", num_cpus=NUM_CPUS, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class StubTrial(tune.Trainable):
    """Three epochs without training; the second fails as the file ``fault`` in its folder says."""

    def setup(self, config):
        self._spec = JobSpec.model_validate_json(config["spec"])
        self._epoch = 0

    def reset_config(self, new_config):
        self.setup(new_config)
        return True

    def step(self):
        self._epoch += 1
        folder = self._spec.run_path
        (folder / f"running-{self._epoch}").touch()
        time.sleep(0.2)
        (folder / f"running-{self._epoch}").unlink()
        fault = (folder / "fault").read_text() if (folder / "fault").exists() else ""
        if self._epoch == 2 and fault:
            if not fault.endswith("always"):
                (folder / "fault").unlink()
            if fault.startswith("raise"):
                raise RuntimeError("injected")
            if fault.startswith("abort"):
                return {"failure": "injected", "done": True}
            os.kill(os.getpid(), signal.SIGKILL)
        return {"epoch": self._epoch, "score": 0.1 * self._epoch, "done": self._epoch == 3}


class RecordingSource:
    """Provides jobs from a list, and records what happens to them."""

    def __init__(self, specs):
        self.specs, self._pending = specs, list(enumerate(specs))
        self.reports, self.ends, self.failures = [], {}, []
        self.max_running = 0
        self.is_stopped = False

    def next(self):
        return self._pending.pop(0) if self._pending else None

    def report(self, number: int, epoch: int, metrics: dict[str, float]) -> bool:
        self.reports.append((number, epoch))
        return self.specs[number].name.startswith("stopped") and epoch == 2

    def failed(self, number: int) -> None:
        self.failures.append(number)

    def end(self, number: int, state: TrialState, error: str | None) -> None:
        self.ends[number] = (state, error)

    def on_tick(self) -> None:
        num_running = sum(any(spec.run_path.glob("running-*")) for spec in self.specs)
        self.max_running = max(self.max_running, num_running)

    def stop(self) -> None:
        self.is_stopped = True


@pytest.fixture
def make_source(make_content):
    """A function that makes a source of stub trials from their names and faults."""

    def make(**faults):
        specs = []
        for name, fault in faults.items():
            spec = parse_spec(make_content(name=name, schedule={"num_epochs": 3, "milestones": []}))
            spec.run_path.mkdir(parents=True)
            if fault:
                (spec.run_path / "fault").write_text(fault)
            specs.append(spec)
        return RecordingSource(specs)

    return make


def run_stubs(source, folder, must_stop=lambda: False):
    run_trials(
        source,
        folder,
        concurrency=2,
        max_failures=1,
        must_stop=must_stop,
        resources=STUB,
        trainable=StubTrial,
    )


def assert_resources_are_released():
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        groups = ray.util.placement_group_table().values()
        is_free = ray.available_resources().get("CPU") == NUM_CPUS
        if is_free and all(group["state"] == "REMOVED" for group in groups):
            return
        time.sleep(0.2)
    raise AssertionError((ray.available_resources(), ray.util.placement_group_table()))


def test_trials_finish_stop_fail_and_are_retried(make_source, tmp_path):
    source = make_source(
        plain="",
        stopped="",
        raised="raise",
        killed="kill",
        failing="raise always",
        aborted="abort always",
        last="",
    )
    run_stubs(source, tmp_path)

    states = {source.specs[number].name: end for number, end in source.ends.items()}
    assert states == {
        "plain": ("finished", None),
        "stopped": ("stopped", None),
        "raised": ("finished", None),
        "killed": ("finished", None),
        "failing": ("failed", "RuntimeError: injected"),
        "aborted": ("failed", "injected"),
        "last": ("finished", None),
    }
    # Each is retried once, by max_failures; the one that always fails then fails again. The one
    # that was aborted is not retried.
    assert sorted(source.failures) == [2, 3, 4, 4, 5]
    assert source.max_running == 2
    assert [epoch for number, epoch in source.reports if number == 0] == [1, 2, 3]
    assert [epoch for number, epoch in source.reports if number == 1] == [1, 2]
    assert [epoch for number, epoch in source.reports if number == 2] == [1, 1, 2, 3]
    assert not (tmp_path / ".tune").exists()
    assert_resources_are_released()


def test_trials_that_run_when_everything_stops_have_not_ended(make_source, tmp_path):
    source = make_source(**{f"t{number}": "" for number in range(20)})
    run_stubs(source, tmp_path, must_stop=lambda: len(source.ends) >= 3)

    assert source.is_stopped
    assert 3 <= len(source.ends) <= 5
    assert {state for state, _ in source.ends.values()} == {"finished"}
    assert_resources_are_released()


def make_search(content):
    """A search, the trackers and the source of its trials, and the sweep."""
    sweep = parse_sweep(content)
    sweep.sweep_path.mkdir(parents=True)
    search, trackers = Search(sweep), RunTrackers(UNREACHABLE, {}, parent=None)
    trials = SearchTrials(sweep, sweep.as_job(), search, trackers, lambda: None)
    return search, trackers, trials, sweep


def trial_path(sweep, number):
    return sweep.sweep_path / TRIALS_NAME / trial_name(number)


def run_search(trials, sweep):
    """Run the trials one after the other."""
    run_trials(
        trials,
        sweep.sweep_path,
        concurrency=1,
        max_failures=1,
        must_stop=lambda: False,
        resources=trial_resources(sweep.base.resources),
    )


def student_of(run_path):
    return load_file(run_path / STUDENT_NAME)


def trained_alone(spec):
    """The student of the same run by itself, trained by Ray Train."""
    alone = spec.model_copy(update={"name": f"alone-{spec.name}"})
    alone.run_path.mkdir()
    write_spec(alone)
    run_training(alone)
    collect_result(alone.run_path, alone.schedule.num_epochs)
    return student_of(alone.run_path)


def assert_equal_students(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


class Injector:
    """Does something to a trial's process at an evaluation, of which its report tells."""

    def __init__(self, trials, faults):
        self._trials, self._report, self._faults = trials, trials.report, faults
        self.pids = {}
        trials.report = self.report

    def report(self, number, epoch, metrics):
        (process,) = trial_processes()
        self.pids.setdefault(number, []).append(process.pid)
        fault = self._faults.pop((number, epoch), None)
        if fault == "stop":
            self._report(number, epoch, metrics)
            return True
        if fault is not None:
            process.send_signal(fault)
        return self._report(number, epoch, metrics)


def trial_processes():
    """Ray names a process after the actor, or after its method that runs."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if " ".join(process.info["cmdline"] or []).startswith(("ray::Trial", "ray::ResourceTrai"))
    ]


def starts(journal_path):
    return [event.text for event in read_events(journal_path) if event.kind == "start"]


def test_trials_of_one_worker_train_in_one_process_as_jobs_do(make_sweep_content):
    """One finishes, one is stopped, one receives SIGTERM, one hangs, one is killed.

    Each trains as a job of its own does: in a process that others have used, and resumed.
    """
    base = {
        "resources": {"num_workers": 1, "cpus_per_worker": 1, "heartbeat_timeout_s": 5},
        "tracking": {"uri": UNREACHABLE, "log_every_steps": 3},
        "schedule": {"num_epochs": 6, "milestones": []},
    }
    fields = {"budget": {"trials": 5}, "algorithm": {"kind": "random"}}
    search, trackers, trials, sweep = make_search(
        make_sweep_content(base=base, scheduler={"kind": "none"}, **fields)
    )
    faults = {
        (1, 3): "stop",
        (2, 2): signal.SIGTERM,
        (3, 2): signal.SIGSTOP,
        (4, 2): signal.SIGKILL,
    }
    injector = Injector(trials, faults)
    run_search(trials, sweep)
    trials.close()
    trackers.close()

    records = search.records()
    assert [record.state for record in records] == ["finished", "stopped", *["finished"] * 3]
    assert [record.num_failures for record in records] == [0, 0, 0, 1, 1]
    for number in (0, 2, 3, 4):
        assert [epoch for epoch, _ in records[number].curve] == list(range(1, 7))
    # SIGTERM ends no process: it saves, and goes on.
    assert len({pid for number in (0, 1, 2) for pid in injector.pids[number]}) == 1
    resumed = {number: starts(trial_path(sweep, number) / JOURNAL_NAME) for number in range(5)}
    assert [len(texts) for texts in resumed.values()] == [1, 1, 2, 2, 2]
    assert_resources_are_released()
    for number in (2, 3, 4):
        path = trial_path(sweep, number)
        assert_equal_students(student_of(path), trained_alone(read_spec(path)))


def test_trials_of_two_workers_train_as_jobs_do(make_sweep_content):
    """The driver of the second is killed while its workers hold the CPUs."""
    base = {
        "resources": {"num_workers": 2, "cpus_per_worker": 1},
        "tracking": {"uri": UNREACHABLE, "log_every_steps": 3},
        "schedule": {"num_epochs": 6, "milestones": []},
    }
    fields = {"budget": {"trials": 2}, "algorithm": {"kind": "random"}}
    search, trackers, trials, sweep = make_search(
        make_sweep_content(base=base, scheduler={"kind": "none"}, **fields)
    )
    Injector(trials, {(1, 2): signal.SIGKILL})
    run_search(trials, sweep)
    trials.close()
    trackers.close()

    states = [(record.state, record.num_failures) for record in search.records()]
    assert states == [("finished", 0), ("finished", 1)]
    assert [epoch for epoch, _ in search.records()[1].curve] == list(range(1, 7))
    texts = starts(trial_path(sweep, 1) / JOURNAL_NAME)
    assert [text.rpartition(",")[0] for text in texts] == ["training on 2 workers"] * 2
    assert_resources_are_released()
    path = trial_path(sweep, 1)
    assert_equal_students(student_of(path), trained_alone(read_spec(path)))


def test_trial_that_is_stopped_between_evaluations_saves_a_checkpoint(make_sweep_content):
    # The only evaluation is at the end, so the trial can stop at nothing else.
    base = {
        "resources": {"num_workers": 1, "cpus_per_worker": 1},
        "tracking": {"uri": UNREACHABLE, "log_every_steps": 3},
        "schedule": {"num_epochs": 150, "milestones": []},
        "evaluation": {"every_epochs": 150},
    }
    search, trackers, trials, sweep = make_search(
        make_sweep_content(base=base, budget={"trials": 1}, scheduler={"kind": "none"})
    )
    run_path = trial_path(sweep, 0)
    requested_s = []

    def must_stop():
        events = read_events(run_path / JOURNAL_NAME)
        if not requested_s and any(event.kind == "interval" for event in events):
            requested_s.append(time.monotonic())
        return bool(requested_s)

    run_trials(
        trials,
        sweep.sweep_path,
        concurrency=1,
        max_failures=1,
        must_stop=must_stop,
        resources=trial_resources(sweep.base.resources),
    )
    trackers.close()

    assert time.monotonic() - requested_s[0] < 30
    record = search.records()[0]
    assert (record.state, record.curve) == ("running", ())
    assert_resources_are_released()
    events = read_events(run_path / JOURNAL_NAME)
    last_saved = [event.step for event in events if event.kind == "checkpoint"][-1]
    assert last_saved > 0
    newest = newest_checkpoint(run_path)
    assert newest.name.startswith(f"checkpoint_{last_saved:010d}")
    assert is_intact(newest)
