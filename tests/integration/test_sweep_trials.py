"""Trials under Ray Tune: how many at a time, what comes of failures, what is left when they stop.

Stand-ins that train nothing, but for what the real follower of a run holds of the cluster.
"""

import os
import signal
import sys
import threading
import time

import psutil
import pytest
import ray
from ray import tune

from service.cluster.launch import run_training
from service.result import collect_result
from service.run.folder import SPEC_NAME
from service.run.journal import JOURNAL_NAME, read_events
from service.spec.job import JobSpec
from service.spec.loading import parse_spec
from service.sweep.loading import parse_sweep
from service.sweep.study import Search
from service.sweep.trials import SearchTrials
from service.training.checkpoint import STUDENT_NAME, is_intact, newest_checkpoint
from service.trials.run_trackers import RunTrackers, sweep_as_job
from service.trials.runner import run_trials
from service.trials.source import TrialState

pytestmark = pytest.mark.slow

NUM_CPUS = 2
LIMIT_S = 120
AWAY = "http://127.0.0.1:9"


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Without the dashboard, which a sweep does not need."""
    # Workers cannot import a test.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init("local", num_cpus=NUM_CPUS, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Pretender(tune.Trainable):
    """Three epochs of nothing; in the second it does, once, what a file in its folder says."""

    def setup(self, config):
        self._spec = JobSpec.model_validate_json(config["spec"])
        self._epoch = 0

    def reset_config(self, new_config):
        self.setup(new_config)
        return True

    def step(self):
        self._epoch += 1
        folder = self._spec.run_path
        (folder / f"under-way-{self._epoch}").touch()
        time.sleep(0.2)
        (folder / f"under-way-{self._epoch}").unlink()
        deed = (folder / "deed").read_text() if (folder / "deed").exists() else ""
        if self._epoch == 2 and deed:
            if not deed.endswith("always"):
                (folder / "deed").unlink()
            if deed.startswith("raise"):
                raise RuntimeError("no luck")
            os.kill(os.getpid(), signal.SIGKILL)
        return {"epoch": self._epoch, "score": 0.1 * self._epoch, "done": self._epoch == 3}


class Source:
    """Jobs from a list, and what was told of them."""

    def __init__(self, specs):
        self.specs, self._left = specs, list(enumerate(specs))
        self.reports, self.ends, self.failures = [], {}, []
        self.most_at_once = 0

    def next(self):
        return self._left.pop(0) if self._left else None

    def report(self, number: int, epoch: int, metrics: dict[str, float]) -> bool:
        self.reports.append((number, epoch))
        return self.specs[number].name.startswith("stopped") and epoch == 2

    def failed(self, number: int) -> None:
        self.failures.append(number)

    def end(self, number: int, state: TrialState, error: str | None) -> None:
        self.ends[number] = (state, error)

    def leave(self) -> None:
        self.was_told_to_leave = True

    def look(self) -> None:
        under_way = sum(any(spec.run_path.glob("under-way-*")) for spec in self.specs)
        self.most_at_once = max(self.most_at_once, under_way)


@pytest.fixture
def make_source(make_content):
    def make(**deeds):
        specs = []
        for name, deed in deeds.items():
            spec = parse_spec(make_content(name=name, schedule={"num_epochs": 3, "milestones": []}))
            spec.run_path.mkdir(parents=True)
            if deed:
                (spec.run_path / "deed").write_text(deed)
            specs.append(spec)
        return Source(specs)

    return make


def run(source, tmp_path, must_stop=lambda: False, max_failures=1):
    run_trials(
        source,
        tmp_path,
        concurrency=2,
        max_failures=max_failures,
        must_stop=must_stop,
        trainable=Pretender,
    )


def assert_nothing_is_held():
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        groups = ray.util.placement_group_table().values()
        is_free = ray.available_resources().get("CPU") == NUM_CPUS
        if is_free and all(group["state"] == "REMOVED" for group in groups):
            return
        time.sleep(0.2)
    raise AssertionError((ray.available_resources(), ray.util.placement_group_table()))


def test_trials_finish_stop_fail_and_begin_again(make_source, tmp_path):
    source = make_source(
        plain="",
        stopped="",
        raised="raise",
        killed="kill",
        doomed="raise always",
        last="",
    )
    run(source, tmp_path)

    states = {source.specs[number].name: end for number, end in source.ends.items()}
    assert states == {
        "plain": ("finished", None),
        "stopped": ("stopped", None),
        "raised": ("finished", None),
        "killed": ("finished", None),
        "doomed": ("failed", "RuntimeError: no luck"),
        "last": ("finished", None),
    }
    # One more chance each, by max_failures; the doomed one needs it in vain.
    assert sorted(source.failures) == [2, 3, 4, 4]
    assert source.most_at_once == 2
    assert [epoch for number, epoch in source.reports if number == 0] == [1, 2, 3]
    assert [epoch for number, epoch in source.reports if number == 1] == [1, 2]
    assert [epoch for number, epoch in source.reports if number == 2] == [1, 1, 2, 3]
    assert not (tmp_path / ".tune").exists()
    assert_nothing_is_held()


def test_trials_that_are_told_to_stop_have_not_ended(make_source, tmp_path):
    source = make_source(**{f"t{number}": "" for number in range(20)})
    run(source, tmp_path, must_stop=lambda: len(source.ends) >= 3)

    assert source.was_told_to_leave
    assert 3 <= len(source.ends) <= 5
    assert {state for state, _ in source.ends.values()} == {"finished"}
    assert_nothing_is_held()


def worker_processes():
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "RayTrainWorker" in " ".join(process.info["cmdline"] or [])
    ]


def test_workers_stay_for_the_next_trial_which_they_train_as_new_ones_would(make_sweep_content):
    """After one that finished, one that was stopped, and one after which a worker was killed.

    Of the last trial the process is killed that controls its workers, while they hold the CPUs.
    """
    sections = {
        "resources": {"num_workers": 2, "cpus_per_worker": 1},
        "tracking": {"uri": AWAY, "log_every_steps": 3},
        "schedule": {"num_epochs": 12, "milestones": []},
    }
    algorithm, scheduler = {"kind": "random"}, {"kind": "none"}
    search, trackers, trials, sweep = begin(
        make_sweep_content(
            base=sections, budget={"trials": 4}, algorithm=algorithm, scheduler=scheduler
        )
    )
    report, seen = trials.report, {}

    def report_and_look(number, epoch, metrics):
        processes = worker_processes()
        seen.setdefault(number, {process.pid for process in processes})
        if number == 2 and epoch == 12:
            # It has told of its last epoch: its run is over.
            processes[0].kill()
        return report(number, epoch, metrics) or number == 1

    trials.report = report_and_look
    journal = sweep.sweep_path / "trials" / "trial-0003" / JOURNAL_NAME
    killer = threading.Thread(target=kill_follower, args=(journal,))
    killer.start()
    run_trials(
        trials, sweep.sweep_path, concurrency=1, max_failures=1, must_stop=lambda: False
    )  # fmt: skip
    killer.join()
    trials.close()
    trackers.close()

    states = [(record.state, record.num_failures) for record in search.records()]
    assert states == [("finished", 0), ("stopped", 0), ("finished", 0), ("finished", 1)]
    assert [epoch for epoch, _ in search.records()[3].curve] == list(range(1, 13))
    assert_went_on(read_events(journal))
    assert len(seen[0]) == 2
    assert seen[0] == seen[1] == seen[2]
    assert seen[3].isdisjoint(seen[0])
    assert_nothing_is_held()
    path = sweep.sweep_path / "trials" / "trial-0002"
    spec = JobSpec.model_validate_json((path / SPEC_NAME).read_text())
    alone = spec.model_copy(update={"name": "alone"})
    alone.run_path.mkdir()
    run_training(alone)
    collect_result(alone, 0.0)
    assert (alone.run_path / STUDENT_NAME).read_bytes() == (path / STUDENT_NAME).read_bytes()


def test_trial_is_stopped_between_evaluations_and_has_saved(make_sweep_content):
    # There is one evaluation, at the end: nothing else would come to an end before.
    sections = {
        "resources": {"num_workers": 1, "cpus_per_worker": 1},
        "tracking": {"uri": AWAY, "log_every_steps": 3},
        "schedule": {"num_epochs": 150, "milestones": []},
        "evaluation": {"every_epochs": 150},
    }
    search, trackers, trials, sweep = begin(
        make_sweep_content(base=sections, budget={"trials": 1}, scheduler={"kind": "none"})
    )
    run_path = sweep.sweep_path / "trials" / "trial-0000"
    asked_s = []

    def must_stop():
        events = read_events(run_path / JOURNAL_NAME)
        if not asked_s and any(event.kind == "interval" for event in events):
            asked_s.append(time.monotonic())
        return bool(asked_s)

    run_trials(trials, sweep.sweep_path, concurrency=1, max_failures=1, must_stop=must_stop)
    trackers.close()

    assert time.monotonic() - asked_s[0] < 30
    record = search.records()[0]
    assert (record.state, record.curve) == ("running", ())
    assert_nothing_is_held()
    events = read_events(run_path / JOURNAL_NAME)
    saved = [event.step for event in events if event.kind == "checkpoint"][-1]
    assert saved > 0
    newest = newest_checkpoint(run_path)
    assert newest is not None
    assert newest.name.startswith(f"checkpoint_{saved:010d}")
    assert is_intact(newest)


def begin(content):
    """A search, what is told of its trials, and the trials, of real runs."""
    sweep = parse_sweep(content)
    sweep.sweep_path.mkdir(parents=True)
    search, trackers = Search(sweep, sweep.sweep_path), RunTrackers(AWAY, {}, parent=None)
    trials = SearchTrials(sweep, sweep_as_job(sweep), search, trackers, lambda: None)
    return search, trackers, trials, sweep


def assert_went_on(events):
    """There were two starts, the second where a checkpoint was."""
    first, second = (event.text for event in events if event.kind == "start")
    assert first == "training on 2 workers, from step 0"
    assert int(second.rpartition(" ")[2]) in {e.step for e in events if e.kind == "checkpoint"}


def kill_follower(journal):
    """SIGKILL to the trial's process when it has told of a second epoch."""
    deadline_s = time.monotonic() + LIMIT_S
    while sum(event.kind == "evaluation" for event in read_events(journal)) < 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    for process in psutil.process_iter(["cmdline"]):
        if "Trainable" in " ".join(process.info["cmdline"] or []):
            process.kill()
