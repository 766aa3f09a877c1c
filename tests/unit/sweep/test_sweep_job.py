"""A whole submission of a sweep, with runs that end as the test says instead of training."""

import json
import os
import signal

import pytest
from support.confirm_runs import NoTrackers, write_journal, write_result

from service.sweep import job as job_module
from service.sweep.job import run_sweep
from service.sweep.loading import load_sweep
from service.trials import cluster as cluster_module

VAL_TOP1 = {"best": 0.75, "default": 0.5}


class FakeCluster:
    """Runs trials; ``failing``: names of the runs that fail; ``stop_at``: SIGTERM comes then."""

    def __init__(self):
        self.failing, self.stop_at, self.started = set(), None, []

    def run_trials(self, source, folder, *, must_stop, **_):
        while not must_stop() and (trial := source.next()) is not None:
            number, spec = trial
            self.started.append(spec.name)
            write_journal(spec, ("interval", 4, 1, {"train/loss": 1.0}))
            if spec.name == self.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
                source.stop()
            elif spec.name in self.failing:
                source.failed(number)
                source.end(number, "failed", "worker 0 was killed")
            else:
                self.finish(source, number, spec)

    def finish(self, source, number, spec):
        role = spec.name.partition("-")[0]
        if role in VAL_TOP1:
            write_result(spec, VAL_TOP1[role])
        else:
            source.report(number, spec.schedule.num_epochs, {"held_out/top1": 0.1 * number})
        source.end(number, "finished", None)


@pytest.fixture
def cluster(monkeypatch):
    cluster = FakeCluster()
    monkeypatch.setattr(cluster_module, "run_trials", cluster.run_trials)
    monkeypatch.setattr(job_module, "RunTrackers", lambda *_: NoTrackers())
    for name in ("check_tracking", "check_address", "find_parent", "publish_sweep"):
        monkeypatch.setattr(job_module, name, lambda *_, **__: None)
    monkeypatch.setattr(cluster_module, "connect", lambda: None)
    monkeypatch.setattr(cluster_module, "plan_concurrency", lambda *_: 1)
    # Drawing takes seconds.
    monkeypatch.setattr("service.sweep.outcome.render_sweep_page", lambda *_: "")
    return cluster


@pytest.fixture
def submit(make_sweep_content, tmp_path):
    def submit(num_seeds, **fields):
        content = make_sweep_content(
            # Outside the search space: the best settings are never the base's own.
            base={"losses": {"ce": {}, "dtkd": {"base_temperature": 9}, "kd": {"weight": 1}}},
            budget={"trials": 2},
            **{"scheduler": {"kind": "none"}, **fields},
        )
        path = tmp_path / "sweep.json"
        path.write_text(json.dumps(content))
        return run_sweep(load_sweep(path), num_seeds)

    return submit


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "sweep"


def status(folder):
    return json.loads((folder / "status.json").read_text())


def test_failed_confirming_run_fails_the_sweep(cluster, submit, folder, capsys):
    cluster.failing = {"best-seed-1"}
    assert submit(2) == 1

    output = capsys.readouterr().out
    assert "best-seed-1: worker 0 was killed" in output
    assert "left out, because a run with it failed: seed 1" in output
    state = status(folder)
    counts = [state[f"num_confirm{name}"] for name in ("_runs", "ed", "_failed")]
    assert (state["state"], counts) == ("failed", [4, 3, 1])
    assert json.loads((folder / "confirm.json").read_text())["best"] == {"0": 0.75}

    cluster.failing, cluster.started = set(), []
    assert submit(2) == 0
    assert cluster.started == ["best-seed-1"]
    assert json.loads((folder / "confirm.json").read_text())["best"] == {"0": 0.75, "1": 0.75}
    assert status(folder)["state"] == "finished"


def test_no_comparison_if_each_seed_has_a_failed_run(cluster, submit, folder, capsys):
    cluster.failing = {"default-seed-0"}
    assert submit(1) == 1
    assert "no comparison: with each seed, a run failed" in capsys.readouterr().out
    assert not (folder / "confirm.json").exists()


@pytest.mark.parametrize("name", ["trial-0001", "best-seed-0", "default-seed-1"])
def test_stopped_sweep_resumes_what_had_not_ended(cluster, submit, folder, name, capsys):
    cluster.stop_at = name
    assert submit(2) == 3
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line.startswith("sweep was stopped; submit the same sweep to resume")
    assert status(folder)["state"] == "stopped"
    assert not (folder / "confirm.json").exists()

    before, cluster.stop_at, cluster.started = cluster.started, None, []
    assert submit(2) == 0
    runs = ["trial-0000", "trial-0001"]
    runs += [f"{role}-seed-{seed}" for seed in (0, 1) for role in ("best", "default")]
    assert [*before[:-1], *cluster.started] == runs
    assert status(folder)["state"] == "finished"


def test_other_scheduler_is_noted_when_a_sweep_resumes(cluster, submit, capsys):
    assert submit(0) == 0
    assert submit(0) == 0
    assert "stay stopped" not in capsys.readouterr().out
    assert submit(0, scheduler={"kind": "median"}) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "the scheduler has changed: 0 trials stopped earlier stay stopped"


def test_seconds_of_the_search_do_not_count_confirming(cluster, submit, folder):
    assert submit(0) == 0
    before = status(folder)["seconds"]
    assert submit(1) == 0
    assert status(folder)["seconds"] == before
