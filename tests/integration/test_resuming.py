"""Runs that are killed or go wrong end as if nothing had happened, or say why they do not."""

import contextlib
import json

import numpy as np
import pytest
import torch
from support.training_runs import (
    InterruptedRunError,
    final,
    loss_series,
    run_alone,
    run_rank,
    run_ranks,
    run_together,
    stop_at,
)

from data_pipeline.order import train_batches
from service.run.journal import JOURNAL_NAME, read_events
from service.spec.loading import parse_spec
from service.training.checkpoint import checkpoint_paths, copied_to_cpu, newest_checkpoint
from service.training.gradient import GradientComputer
from service.training.trainer import Worker


def test_interrupted_run_ends_with_the_same_weights(make_content, teacher):
    schedule = {"num_epochs": 4, "milestones": [2]}
    training = {"ema_decay": 0.9}
    sections = {"teacher": teacher, "schedule": schedule, "training": training}
    straight = parse_spec(make_content(name="straight", **sections))
    resumed = parse_spec(make_content(name="resumed", **sections))
    run_alone(straight)
    for stop in (1, 2):
        with pytest.raises(InterruptedRunError):
            run_alone(resumed, stop_after_reports=stop)
    run_alone(resumed)
    ours, theirs = final(straight), final(resumed)
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in ours[0])
    assert ours[1] == theirs[1]
    assert loss_series(straight) == loss_series(resumed)


@pytest.mark.parametrize("every_steps", [1, 2, 3])
def test_run_killed_within_epochs_ends_as_if_it_was_not(
    make_content, teacher, monkeypatch, every_steps
):
    sections = {
        "teacher": teacher,
        "schedule": {"num_epochs": 3, "milestones": [2]},
        "training": {"ema_decay": 0.9},
        "checkpoints": {"every_steps": every_steps},
        "tracking": {"log_every_steps": 3},
    }
    straight = parse_spec(make_content(name="straight", **sections))
    killed = parse_spec(make_content(name="killed", **sections))
    run_alone(straight)
    deaths = (1, 3, 4, 6, 11, 12)
    stop_at(deaths, monkeypatch.setattr)
    for _ in deaths:
        with pytest.raises(InterruptedRunError):
            run_alone(killed)
    run_alone(killed)
    ours, theirs = final(killed), final(straight)
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in theirs[0])
    assert ours[1] == theirs[1]
    assert loss_series(killed) == loss_series(straight)


def run_rank_until(rank, content, world_size, store, step):
    """As run_rank, but every worker dies before a step."""
    stop_at([step], setattr)
    with contextlib.suppress(InterruptedRunError):
        run_rank(rank, content, world_size, store)


def test_two_workers_killed_within_an_epoch_end_as_if_they_were_not(
    make_content, teacher, tmp_path
):
    sections = {
        "teacher": teacher,
        "training": {"ema_decay": 0.9},
        "checkpoints": {"every_steps": 1},
        "tracking": {"log_every_steps": 3},
    }
    straight, killed = (make_content(name=name, **sections) for name in ("straight", "killed"))
    run_together(straight, 2, tmp_path)
    parse_spec(killed).run_path.mkdir(parents=True)
    for step in (3, 6):
        store = tmp_path / f"until{step}"
        run_ranks(run_rank_until, (killed, 2, store, step), 2)
    (tmp_path / "store2").unlink()
    run_together(killed, 2, tmp_path)
    ours, theirs = final(parse_spec(killed)), final(parse_spec(straight))
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in theirs[0])
    assert loss_series(parse_spec(killed)) == loss_series(parse_spec(straight))


def test_diverging_run_stops_with_advice(make_content):
    spec = parse_spec(make_content(optimizer={"learning_rate": 1e30}))
    run_alone(spec)
    reason = json.loads((spec.run_path / "abort.json").read_text())
    assert "optimizer.learning_rate" in reason["text"]
    assert reason["exit_status"] == 1


@pytest.mark.parametrize(
    ("sections", "steps"),
    [
        ({"every_steps": 3}, [3, 4, 6, 8]),
        ({"every_minutes": 1e-9}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"every_minutes": 60}, [4, 8]),
        ({"every_epochs": 2}, [8]),
    ],
    ids=str,
)
def test_checkpoints_come_when_the_spec_says(make_content, sections, steps):
    spec = parse_spec(make_content(checkpoints={**sections, "num_to_keep": 9}))
    run_alone(spec)
    found = sorted(int(path.name.split("_")[1]) for path in checkpoint_paths(spec.run_path))
    assert found == steps


def poison(steps, setattr_):
    """Make the gradient of some steps infinite."""
    compute = GradientComputer.compute

    def compute_poisoned(computer, batch, share, progress):
        gradient = compute(computer, batch, share, progress)
        if progress.step in steps:
            next(iter(computer._task.student.parameters())).grad.add_(float("inf"))
        return gradient

    setattr_(GradientComputer, "compute", compute_poisoned)


def test_poisoned_step_is_skipped_without_a_trace(make_content, monkeypatch):
    sections = {
        "training": {"on_nonfinite": "skip", "max_skipped_steps": 2, "ema_decay": 0.9},
        "schedule": {"num_epochs": 1, "milestones": []},
        "tracking": {"log_every_steps": 4},
    }
    spec = parse_spec(make_content(name="skipped", **sections))
    poison({1, 3}, monkeypatch.setattr)
    before = {}
    go_without = Worker._skip_nonfinite_step

    def remember(worker, *arguments):
        go_without(worker, *arguments)
        before[worker.progress.step] = copied_to_cpu(worker._student.state_dict())

    step = Worker.step
    states = []

    def step_and_look(worker, batch):
        states.append(copied_to_cpu(worker._student.state_dict()))
        return step(worker, batch)

    monkeypatch.setattr(Worker, "_skip_nonfinite_step", remember)
    monkeypatch.setattr(Worker, "step", step_and_look)
    run_alone(spec)
    assert sorted(before) == [1, 3]
    for poisoned, state in before.items():
        assert all(torch.equal(state[name], states[poisoned][name]) for name in state)
    assert final(spec)[1]["skipped"] == 2
    interval = next(e for e in read_events(spec.run_path / JOURNAL_NAME) if e.kind == "interval")
    assert np.isfinite(interval.values["loss"])
    assert interval.values["skipped_steps"] == 2
    order = next(train_batches(256, 64, seed=0, epoch=0, start=3))
    dump = json.loads((spec.run_path / "nonfinite_step0000000003_rank0.json").read_text())
    assert dump["samples"] == order.tolist()


def test_interval_of_skipped_steps_has_no_figures(make_content, monkeypatch):
    spec = parse_spec(make_content(training={"on_nonfinite": "skip"}))
    poison({2, 3}, monkeypatch.setattr)
    run_alone(spec)
    events = read_events(spec.run_path / JOURNAL_NAME)
    assert [event.step for event in events if event.kind == "interval"] == [2, 6, 8]
    assert len([event for event in events if event.kind == "note"]) == 2


def test_one_poisoned_step_too_many_ends_the_run(make_content, monkeypatch):
    training = {"on_nonfinite": "skip", "max_skipped_steps": 1}
    spec = parse_spec(make_content(training=training))
    poison({2, 5}, monkeypatch.setattr)
    run_alone(spec)
    text = json.loads((spec.run_path / "abort.json").read_text())["text"]
    assert "step 5 is not finite, after 1 others" in text
    assert newest_checkpoint(spec.run_path).name == "checkpoint_0000000004"
