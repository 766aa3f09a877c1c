"""Trials under Ray Tune: how many at a time, what comes of failures, what is left when they stop.

Stand-ins that train nothing, but for what the real follower of a run holds of the cluster.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray
from ray import tune

from service.spec import JobSpec, parse_spec
from service.sweep.records import TrialState
from service.sweep.search import Search
from service.sweep.spec import parse_sweep
from service.sweep.tracking import RunTrackers, identity
from service.sweep.trial import Trial
from service.sweep.trials import SearchTrials
from service.sweep.tuner import run_trials

pytestmark = pytest.mark.slow

NUM_CPUS = 2
LIMIT_S = 120


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

    assert 3 <= len(source.ends) <= 5
    assert {state for state, _ in source.ends.values()} == {"finished"}
    assert_nothing_is_held()


def test_trial_whose_follower_is_killed_goes_on_from_its_checkpoint(make_sweep_content, tmp_path):
    """The real thing: the process that controls a trial's workers dies, and they hold a CPU."""
    base = {
        "schedule": {"num_epochs": 12, "milestones": []},
        "resources": {"num_workers": 1, "cpus_per_worker": 1},
        "tracking": {"uri": "http://127.0.0.1:9"},
    }
    budget = {"trials": 1}
    sweep = parse_sweep(make_sweep_content(base=base, budget=budget, scheduler={"kind": "none"}))
    sweep.sweep_path.mkdir(parents=True)
    search = Search(sweep, sweep.sweep_path)
    trackers = RunTrackers("http://127.0.0.1:9", {}, parent=None)
    trials = SearchTrials(sweep, identity(sweep), search, trackers, lambda: None)
    killer = threading.Thread(target=kill_follower, args=(sweep.sweep_path / "trials",))
    killer.start()
    run_trials(
        trials, sweep.sweep_path, concurrency=1, max_failures=1, must_stop=lambda: False,
        trainable=Trial,
    )  # fmt: skip
    killer.join()
    trackers.close()

    (record,) = search.records()
    assert (record.state, record.num_failures) == ("finished", 1)
    assert [epoch for epoch, _ in record.curve] == list(range(1, 13))
    starts = (sweep.sweep_path / "trials" / "trial-0000" / "journal.jsonl").read_text()
    assert starts.count("from step 0") == 1
    assert starts.count("training on 1 worker") == 2
    assert_nothing_is_held()


def kill_follower(folder: Path):
    """SIGKILL to the trial's process when it has told of a second epoch."""
    journal, deadline_s = folder / "trial-0000" / "journal.jsonl", time.monotonic() + LIMIT_S
    while not journal.exists() or journal.read_text().count('"evaluation"') < 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    followers = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "Trainable" in " ".join(process.info["cmdline"] or [])
    ]
    for process in followers:
        process.kill()
