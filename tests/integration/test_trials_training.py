"""Trials that train, in their own process or with two workers, end as jobs of their own do."""

import os
import signal
import sys
import time

import pytest
import ray
import torch
from safetensors.torch import load_file
from support.training_runs import final, run_alone, run_together
from support.trial_cluster import assert_resources_are_released, local_cluster

from service.cluster import sigterm
from service.cluster.waiting import PLACEMENT_NAME
from service.run.folder import STUDENT_NAME, read_spec
from service.run.journal import JOURNAL_NAME, read_events
from service.sweep.loading import parse_sweep
from service.sweep.study import Search
from service.sweep.trials import TRIALS_NAME, SearchTrials, trial_name
from service.training.checkpoint import is_intact, newest_checkpoint
from service.training.trainer import Trainer
from service.trials.capacity import trial_resources
from service.trials.run_trackers import RunTrackers
from service.trials.runner import run_trials
from service.trials.trainable import Trial

pytestmark = pytest.mark.slow

UNREACHABLE = "http://127.0.0.1:9"
# In the second of six epochs.
FAULT_STEP = 5


@pytest.fixture(scope="module", autouse=True)
def cluster():
    # Workers cannot import a test.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with local_cluster():
        yield


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
        trainable=FaultyTrial,
    )


def student_of(run_path):
    return load_file(run_path / STUDENT_NAME)


def trained_alone(spec, tmp_path):
    """The student of the same run by itself, trained without Ray."""
    alone = spec.model_copy(update={"name": f"alone-{spec.name}"})
    if spec.resources.max_workers == 1:
        run_alone(alone)
    else:
        run_together(alone.model_dump(mode="json"), spec.resources.max_workers, tmp_path)
    return final(alone)[0]


def assert_equal_students(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


class FaultyTrial(Trial):
    """Records its process, which gets a signal in a step, or as a driver after an evaluation."""

    def setup(self, config):
        super().setup(config)
        self._run_path = self._next_spec.run_path
        with (self._run_path / "pids").open("a") as file:
            print(os.getpid(), file=file)
        original = getattr(Trainer.step, "original", Trainer.step)

        def step_or_fault(trainer, batch):
            if trainer.progress.step == FAULT_STEP:
                suffer(trainer._spec.run_path / "step_fault")
            return original(trainer, batch)

        step_or_fault.original = original
        Trainer.step = step_or_fault

    def step(self):
        result = super().step()
        if result["epoch"] == 2:
            suffer(self._run_path / "driver_fault")
        return result


def suffer(path):
    """Send this process the signal that the file has, once."""
    if path.exists():
        number = int(path.read_text())
        path.unlink()
        os.kill(os.getpid(), number)
        while number == signal.SIGTERM and not sigterm.received_signals:
            time.sleep(0.01)


def plan_faults(trials, kind, faults):
    """Let the trials have faults, by their numbers."""
    start_next = trials.next

    def next_with_fault():
        if (trial := start_next()) is not None and trial[0] in faults:
            (trial[1].run_path / kind).write_text(str(int(faults.pop(trial[0]))))
        return trial

    trials.next = next_with_fault


def starts(journal_path):
    return [event.text for event in read_events(journal_path) if event.kind == "start"]


def test_trials_of_one_worker_train_in_one_process_as_jobs_do(make_sweep_content, tmp_path):
    """One finishes, one is stopped, one receives SIGTERM, one hangs, one is killed.

    Each trains as a job of its own does: in a process that others have used, and resumed.
    """
    base = {
        "resources": {"num_workers": 1, "cpus_per_worker": 1, "heartbeat_timeout_s": 15},
        "tracking": {"uri": UNREACHABLE, "log_every_steps": 3},
        "schedule": {"num_epochs": 6, "milestones": []},
    }
    fields = {"budget": {"trials": 5}, "algorithm": {"kind": "random"}}
    search, trackers, trials, sweep = make_search(
        make_sweep_content(base=base, scheduler={"kind": "none"}, **fields)
    )
    faults = {2: signal.SIGTERM, 3: signal.SIGSTOP, 4: signal.SIGKILL}
    plan_faults(trials, "step_fault", faults)
    report = trials.report

    def report_and_stop(number, epoch, metrics):
        return report(number, epoch, metrics) or (number, epoch) == (1, 3)

    trials.report = report_and_stop
    run_search(trials, sweep)
    trials.close()
    trackers.close()

    records = search.records()
    assert [record.state for record in records] == ["finished", "stopped", *["finished"] * 3]
    assert [record.num_failures for record in records] == [0, 0, 0, 1, 1]
    for number in (0, 2, 3, 4):
        assert [epoch for epoch, _ in records[number].curve] == list(range(1, 7))
    # SIGTERM ends no process: it saves, and goes on.
    pids = [(trial_path(sweep, number) / "pids").read_text().split() for number in range(3)]
    assert pids == 3 * [pids[0][:1]]
    resumed = {number: starts(trial_path(sweep, number) / JOURNAL_NAME) for number in range(5)}
    assert [len(texts) for texts in resumed.values()] == [1, 1, 2, 2, 2]
    assert_resources_are_released()
    for number in (2, 3, 4):
        path = trial_path(sweep, number)
        assert_equal_students(student_of(path), trained_alone(read_spec(path), tmp_path))


def test_trials_of_two_workers_train_as_jobs_do(make_sweep_content, tmp_path):
    """Also if the trial's driver is killed while its workers hold the CPUs."""
    base = {
        "resources": {"num_workers": 2, "cpus_per_worker": 1},
        "tracking": {"uri": UNREACHABLE, "log_every_steps": 3},
        "schedule": {"num_epochs": 6, "milestones": []},
    }
    fields = {"budget": {"trials": 1}, "algorithm": {"kind": "random"}}
    search, trackers, trials, sweep = make_search(
        make_sweep_content(base=base, scheduler={"kind": "none"}, **fields)
    )
    plan_faults(trials, "driver_fault", {0: signal.SIGKILL})
    run_search(trials, sweep)
    trials.close()
    trackers.close()

    (record,) = search.records()
    assert (record.state, record.num_failures) == ("finished", 1)
    assert [epoch for epoch, _ in record.curve] == list(range(1, 7))
    texts = starts(trial_path(sweep, 0) / JOURNAL_NAME)
    assert [text.rpartition(",")[0] for text in texts] == ["training on 2 workers"] * 2
    assert_resources_are_released()
    path = trial_path(sweep, 0)
    assert not (path / PLACEMENT_NAME).exists()
    assert_equal_students(student_of(path), trained_alone(read_spec(path), tmp_path))


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
