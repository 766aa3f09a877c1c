"""The log and the status while confirming runs train, from journals that the test writes."""

import json

import pytest
from support.confirm_runs import NoTrackers, write_journal, write_result

from service.run.status import StatusFile
from service.sweep.comparison import read_comparison
from service.sweep.confirm import compare, confirm_progress, confirm_specs, confirm_tags
from service.sweep.loading import parse_sweep
from service.sweep.progress import SweepStatus
from service.trials.source import FixedTrials


class Clock:
    """Takes the place of time.monotonic."""

    now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def sweep(make_sweep_content):
    sweep = parse_sweep(make_sweep_content(progress_interval_s=30))
    sweep.sweep_path.mkdir(parents=True)
    return sweep


@pytest.fixture
def specs(sweep):
    return confirm_specs(sweep, sweep.base, {"losses.dtkd.weight": 1.5}, num_seeds=2)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("service.trials.run_progress.time.monotonic", clock)
    return clock


@pytest.fixture
def status(sweep):
    return SweepStatus(sweep.name, sweep.metric_name, eta_s=5.0)


def test_table_and_status_follow_the_journals_of_the_runs(sweep, specs, status, clock):
    """Four runs of 9 epochs: one had finished, one is in its third, one fails in its first."""
    lines = []
    jobs = list(specs.values())
    write_result(specs["best", 0], 0.625)
    progress = confirm_progress(sweep, jobs, status, lines.append)
    trials = FixedTrials(jobs, NoTrackers(), confirm_tags, progress, lines.append)
    trials.on_tick()
    assert status.eta_s is None
    failing, failing_spec = trials.next()
    _, running_spec = trials.next()
    write_journal(failing_spec, ("interval", 2, 0, {"train/loss": 2.5}))
    write_journal(
        running_spec,
        ("interval", 2, 0, {"train/loss": 1.5}),
        ("interval", 10, 2, {"train/loss": 0.75}),
    )
    clock.now_s += 29
    trials.on_tick()
    assert lines == []
    trials.failed(failing)
    trials.end(failing, "failed", "worker 0 was killed")
    clock.now_s += 1
    trials.on_tick()

    # 2 epochs took 30 s; 7 of this run and 9 of the waiting one are left.
    assert lines == [
        f"{failing_spec.name}: worker 0 was killed",
        "sweep: confirming, 1 of 4 runs done, 1 failed, 0:00:30, ETA 0:04:00\n"
        "  default-seed-0  failed   epoch 1 of 9  loss 2.5000\n"
        "  best-seed-1     running  epoch 3 of 9  loss 0.7500",
    ]
    counts = (status.num_confirm_runs, status.num_confirmed, status.num_confirm_failed)
    assert counts == (4, 1, 1)
    assert (status.confirm_seconds, status.eta_s) == (30, 240)


def test_last_line_of_a_run_is_its_accuracy(sweep, specs, status, clock):
    lines = []
    jobs = list(specs.values())
    progress = confirm_progress(sweep, jobs, status, lines.append)
    trials = FixedTrials(jobs, NoTrackers(), confirm_tags, progress)
    _, spec = trials.next()
    write_journal(spec, ("interval", 34, 8, {"train/loss": 0.5}))
    write_journal(spec, ("evaluation", 36, 9, {"val/top1": 0.6034}))
    clock.now_s += 30
    trials.on_tick()

    assert "  best-seed-0  running  epoch 9 of 9  val/top1 60.34%" in lines[0].splitlines()


def test_status_file_says_that_the_sweep_is_confirming(sweep, specs, status, tmp_path):
    jobs = list(specs.values())
    trials = FixedTrials(jobs, NoTrackers(), confirm_tags)
    status.state = "confirming"
    file = StatusFile(tmp_path, status)
    confirm_progress(sweep, jobs, status).update(trials)
    file.close()

    content = json.loads((tmp_path / "status.json").read_text())
    assert (content["state"], content["num_confirm_runs"], content["num_confirmed"]) == (
        "confirming",
        4,
        0,
    )


def test_seed_with_a_failed_run_is_left_out_and_named(sweep, specs, tmp_path):
    for key, top1 in {("best", 0): 0.75, ("default", 0): 0.5, ("best", 1): 0.7}.items():
        write_result(specs[key], top1)
    comparison = compare(sweep, specs, num_tried=8)
    comparison.write(tmp_path)

    assert comparison.best == {0: 0.75}
    assert read_comparison(tmp_path).left_out == (1,)
    assert "left out, because a run with it failed: seed 1" in str(comparison).splitlines()
