"""Trials under Ray Tune that train nothing: how many run at a time, failures, and a stop."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import ray
from ray import tune
from support.trial_cluster import assert_resources_are_released, local_cluster

from service.spec.job import JobSpec
from service.spec.loading import parse_spec
from service.trials.runner import run_trials
from service.trials.source import TrialState

pytestmark = pytest.mark.slow

STUB = {"memory": 5e8}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    # Workers cannot import a test.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with local_cluster():
        yield


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
        if (folder / "meets").exists():
            wait_until(Path((folder / "meets").read_text()).exists)
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


def wait_until(condition):
    """Wait for two minutes at most."""
    deadline_s = time.monotonic() + 120
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.05)


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
        if num_running == 2:
            (self.specs[0].run_path / "met").touch()

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
    # The first two run until both were seen to run.
    for spec in source.specs[:2]:
        (spec.run_path / "meets").write_text(str(source.specs[0].run_path / "met"))
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
