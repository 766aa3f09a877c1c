"""Runs that leave and return, change their number of workers or roll back come to the same end."""

import json
import threading

import pytest
import torch
import torch.distributed as dist
from support.training_runs import (
    CPU,
    final,
    loss_series,
    run_alone,
    run_rank,
    run_ranks,
    run_together,
)

from data_pipeline.order import train_batches
from service.distillation.task import DistillationTask
from service.run.control import GracefulStop, ask_to_leave, pending_request
from service.run.journal import JOURNAL_NAME, read_events
from service.spec.loading import parse_spec
from service.training.checkpoint import checkpoint_paths, newest_checkpoint, read_metadata
from service.training.distributed import World
from service.training.gradient import GradientComputer
from service.training.trainer import Worker, train


def leaving_at(steps):
    """A notice that comes up once at each of some steps of the run."""
    remaining = list(steps)

    def notice(progress=None):
        if remaining and current[0] >= remaining[0]:
            remaining.pop(0)
            return "told to"
        return None

    current = [0]
    return notice, current


def run_until_done(spec, steps, monkeypatch):
    """Train alone, leaving at some steps and coming back each time; how often it left."""
    notice, current = leaving_at(steps)
    step = Worker.step

    def step_and_tell(worker, batch):
        current[0] = worker.progress.step
        return step(worker, batch)

    monkeypatch.setattr(Worker, "step", step_and_tell)
    spec.run_path.mkdir(parents=True, exist_ok=True)
    num_left = 0
    while True:
        try:
            train(spec, World(0, 1, CPU, 1), lambda metrics: None, notice)
        except GracefulStop:
            num_left += 1
        else:
            return num_left


def assert_same_end(ours, theirs):
    assert all(torch.equal(final(ours)[0][name], value) for name, value in final(theirs)[0].items())
    assert final(ours)[1] == final(theirs)[1]
    assert loss_series(ours) == loss_series(theirs)


def test_run_that_leaves_and_comes_back_loses_nothing(make_content, teacher, monkeypatch):
    # No checkpoint within epochs but those on leaving; steps 3 and 7 end epochs.
    sections = {
        "teacher": teacher,
        "training": {"ema_decay": 0.9},
        "checkpoints": {"every_epochs": 2, "every_minutes": None},
        "tracking": {"log_every_steps": 3},
    }
    straight, left = (parse_spec(make_content(name=n, **sections)) for n in ("straight", "left"))
    run_alone(straight)
    assert run_until_done(left, (0, 1, 3, 5, 7), monkeypatch) == 5
    assert_same_end(left, straight)


def test_run_that_leaves_while_it_evaluates_evaluates_again(make_content, monkeypatch):
    straight, left = (parse_spec(make_content(name=n)) for n in ("straight", "left"))
    run_alone(straight)
    reasons = iter(["told to"])
    num_evaluated = 0
    evaluate = evaluation.evaluate

    def evaluate_and_count(classify, batches, device):
        nonlocal num_evaluated
        num_evaluated += 1
        return evaluate(classify, batches, device)

    monkeypatch.setattr(evaluation, "evaluate", evaluate_and_count)
    left.run_path.mkdir(parents=True)

    def notice():
        return next(reasons, None) if num_evaluated == 1 else None

    with pytest.raises(GracefulStop):
        train(left, World(0, 1, CPU, 1), lambda metrics: None, notice)
    assert newest_checkpoint(left.run_path).name == "checkpoint_0000000004-unevaluated"
    train(left, World(0, 1, CPU, 1), lambda metrics: None, notice)
    assert num_evaluated == 3
    assert_same_end(left, straight)


def test_request_beside_the_run_is_followed(make_content):
    spec = parse_spec(make_content())
    spec.run_path.mkdir(parents=True)
    ask_to_leave(spec.run_path, "stop")
    with pytest.raises(GracefulStop, match="asked to stop"):
        train(spec, World(0, 1, CPU, 1), lambda metrics: None, slow_notice)
    assert pending_request(spec.run_path) == "stop"
    assert newest_checkpoint(spec.run_path) is not None


def slow_notice():
    """No reason to leave; asked in every step, it makes each as slow as a real one."""
    threading.Event().wait(0.3)


def run_rank_leaving(rank, content, world_size, store, leaver, step):
    """One rank of several; the leaver alone is told to leave after a step."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    notice, current = leaving_at([step] if rank == leaver else [])
    original = Worker.step

    def step_and_tell(worker, batch):
        current[0] = worker.progress.step
        return original(worker, batch)

    Worker.step = step_and_tell
    try:
        train(parse_spec(content), World(rank, world_size, CPU, 1), lambda metrics: None, notice)
    except GracefulStop:
        assert step is not None
    dist.destroy_process_group()


def run_in_stages(content, stages, tmp_path):
    """Train with one world size after another, leaving at a step of each but the last."""
    parse_spec(content).run_path.mkdir(parents=True, exist_ok=True)
    for number, (world_size, step) in enumerate(stages):
        store = tmp_path / f"stage{number}"
        leaver = world_size - 1
        arguments = (content, world_size, store, leaver, 10**9 if step is None else step)
        run_ranks(run_rank_leaving, arguments, world_size)


@pytest.mark.slow
def test_two_workers_of_which_one_is_told_to_leave_lose_nothing(make_content, tmp_path):
    straight, left = make_content(name="straight"), make_content(name="left")
    run_together(straight, 2, tmp_path)
    run_in_stages(left, [(2, 1), (2, 5), (2, None)], tmp_path)
    assert_same_end(parse_spec(left), parse_spec(straight))


@pytest.mark.slow
def test_run_that_shrinks_and_grows_is_the_fixed_one(make_content, teacher, tmp_path):
    """BatchNorm, EMA, mixing and a smaller last step included; 3 workers share 4 micro-batches."""
    sections = {
        "student": {"model": "cifar:resnet8"},
        "teacher": teacher,
        "augmentation": {"mixing": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}},
        "training": {"ema_decay": 0.9, "global_batch_size": 72, "micro_batch_size": 18}
        | {"drop_last": False},
        "resources": {"num_workers": [1, 3]},
        "tracking": {"log_every_steps": 1},
    }
    fixed, elastic = make_content(name="fixed", **sections), make_content(name="one", **sections)
    run_together(fixed, 2, tmp_path)
    run_in_stages(elastic, [(2, 1), (1, 3), (3, 5), (1, None)], tmp_path)
    ours, theirs = loss_series(parse_spec(elastic)), loss_series(parse_spec(fixed))
    assert [entry[:2] for entry in ours] == [entry[:2] for entry in theirs]
    intervals = [pair for pair in zip(ours, theirs, strict=True) if pair[0][0] == "interval"]
    assert len(intervals) == 8
    for (*_, our_loss, our_dtkd), (*_, their_loss, their_dtkd) in intervals:
        assert our_loss == pytest.approx(their_loss, rel=1e-5)
        assert our_dtkd == pytest.approx(their_dtkd, rel=1e-5)
    ours, theirs = final(parse_spec(elastic)), final(parse_spec(fixed))
    for name, value in theirs[0].items():
        torch.testing.assert_close(ours[0][name], value, rtol=1e-4, atol=1e-5)


def poison_loss(steps, setattr_, rank=0):
    """Make the loss of some steps infinite on one rank, its gradient being as it was."""
    compute, call = GradientComputer.compute, DistillationTask.__call__
    current = [-1]

    def compute_and_tell(computer, batch, share, progress):
        current[0] = progress.step if computer._world.rank == rank else -1
        return compute(computer, batch, share, progress)

    def call_poisoned(task, *arguments):
        output = call(task, *arguments)
        return output._replace(loss=output.loss + float("inf")) if current[0] in steps else output

    setattr_(GradientComputer, "compute", compute_and_tell)
    setattr_(DistillationTask, "__call__", call_poisoned)


def test_run_rolls_back_to_its_last_checkpoint_and_passes_over_what_came_after(
    make_content, monkeypatch
):
    sections = {
        "training": {"on_nonfinite": "roll_back"},
        "checkpoints": {"every_steps": 2, "num_to_keep": 9},
        "schedule": {"num_epochs": 2, "milestones": []},
    }
    spec = parse_spec(make_content(**sections))
    poison_loss({3}, monkeypatch.setattr)
    run_alone(spec)
    notes = [e.text for e in read_events(spec.run_path / JOURNAL_NAME) if e.kind == "note"]
    assert len(notes) == 1
    assert "step 3 skipped" in notes[0]
    assert "rolled back to the weights of step 2" in notes[0]
    names = {p.name: p for p in checkpoint_paths(spec.run_path)}
    before, after = names["checkpoint_0000000002"], names["checkpoint_0000000004"]
    assert (before / "student.safetensors").read_bytes() == (
        after / "student.safetensors"
    ).read_bytes()
    assert read_metadata(after)["progress"]["skipped"] == 1
    order = next(train_batches(256, 64, seed=0, epoch=0, start=3))
    dump = json.loads((spec.run_path / "nonfinite_step0000000003_rank0.json").read_text())
    assert dump["samples"] == order.tolist()
    assert dump["loss"] == "inf"
    assert final(spec)[1]["step"] == 8


def test_run_without_a_checkpoint_rolls_back_to_its_beginning(make_content, monkeypatch):
    spec = parse_spec(make_content(training={"on_nonfinite": "roll_back"}))
    poison_loss({1}, monkeypatch.setattr)
    run_alone(spec)
    notes = [e.text for e in read_events(spec.run_path / JOURNAL_NAME) if e.kind == "note"]
    assert "rolled back to the weights of step 0" in notes[0]


def run_rank_with_one_bad_loss(rank, content, store):
    poison_loss({3}, setattr, rank=1)
    run_rank(rank, content, 2, store)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["stop", "skip", "roll_back"])
def test_bad_loss_on_one_rank_is_all_ranks_business_in_that_step(make_content, tmp_path, policy):
    content = make_content(training={"on_nonfinite": policy})
    spec = parse_spec(content)
    spec.run_path.mkdir(parents=True)
    run_ranks(run_rank_with_one_bad_loss, (content, tmp_path / "store"), 2)
    for rank in (0, 1):
        assert (spec.run_path / f"nonfinite_step0000000003_rank{rank}.json").exists()
    if policy == "stop":
        reason = json.loads((spec.run_path / "abort.json").read_text())
        assert "step 3" in reason["text"]
        assert reason["exit_status"] == 1
    else:
        assert final(spec)[1] | {"skipped": 1, "step": 8} == final(spec)[1]
