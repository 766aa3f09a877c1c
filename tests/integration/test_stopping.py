"""Runs that stop and resume, or change their number of workers, lose nothing."""

import threading

import pytest
import torch
import torch.distributed as dist
from comparison import assert_same_result
from support.training_runs import CPU, final, loss_series, run_alone, run_ranks, run_together

from service.run.control import GracefulStop, pending_request, request_stop
from service.spec.loading import parse_spec
from service.training import evaluation
from service.training.checkpoint import newest_checkpoint
from service.training.distributed import World
from service.training.trainer import Trainer, train


def stop_notice_at(steps, setattr_):
    """A stop notice that is given once at each of these steps of the run."""
    remaining, current = list(steps), [0]
    step = Trainer.step

    def step_and_record(trainer, batch):
        current[0] = trainer.progress.step
        return step(trainer, batch)

    def notice():
        if remaining and current[0] >= remaining[0]:
            remaining.pop(0)
            return "the test requested it"
        return None

    setattr_(Trainer, "step", step_and_record)
    return notice


def resume_until_done(spec, notice):
    """Train alone, and resume after each stop; returns the number of stops."""
    spec.run_path.mkdir(parents=True, exist_ok=True)
    num_stops = 0
    while True:
        try:
            train(spec, World(0, 1, CPU, 1), notice)
        except GracefulStop:
            num_stops += 1
        else:
            return num_stops


def test_stopped_and_resumed_run_loses_nothing(make_content, teacher, monkeypatch):
    # The only checkpoints within epochs are those of the stops; steps 3 and 7 end epochs.
    sections = {
        "teacher": teacher,
        "training": {"ema_decay": 0.9},
        "checkpoints": {"every_epochs": 2, "every_minutes": None},
        "tracking": {"log_every_steps": 3},
    }
    reference, stopped = (
        parse_spec(make_content(name=name, **sections)) for name in ("reference", "stopped")
    )
    run_alone(reference)
    notice = stop_notice_at((0, 1, 3, 5, 7), monkeypatch.setattr)
    assert resume_until_done(stopped, notice) == 5
    assert_same_result(stopped, reference)


def test_run_stopped_during_an_evaluation_evaluates_again(make_content, monkeypatch):
    reference, stopped = (parse_spec(make_content(name=name)) for name in ("reference", "stopped"))
    run_alone(reference)
    reasons = iter(["the test requested it"])
    num_evaluations = 0
    evaluate = evaluation.evaluate

    def evaluate_and_count(*arguments):
        nonlocal num_evaluations
        num_evaluations += 1
        return evaluate(*arguments)

    monkeypatch.setattr(evaluation, "evaluate", evaluate_and_count)
    stopped.run_path.mkdir(parents=True)

    def notice():
        return next(reasons, None) if num_evaluations == 1 else None

    with pytest.raises(GracefulStop):
        train(stopped, World(0, 1, CPU, 1), notice)
    assert newest_checkpoint(stopped.run_path).name == "checkpoint_0000000004-unevaluated"
    train(stopped, World(0, 1, CPU, 1), notice)
    assert num_evaluations == 3
    assert_same_result(stopped, reference)


def test_stop_request_in_the_run_folder_stops_the_run(make_content):
    spec = parse_spec(make_content())
    spec.run_path.mkdir(parents=True)
    request_stop(spec.run_path)
    with pytest.raises(GracefulStop, match="a stop was requested"):
        train(spec, World(0, 1, CPU, 1), slow_notice)
    assert pending_request(spec.run_path) == "stop"
    assert newest_checkpoint(spec.run_path) is not None


def slow_notice():
    """Never a reason to stop; called in every step, it gives the request watcher time to poll."""
    threading.Event().wait(0.3)


def run_rank_until_stopped(rank, content, world_size, store, noticing_rank, step):
    """One rank of several; ``noticing_rank`` alone gets a stop notice at a step, if it is given."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    has_notice = rank == noticing_rank and step is not None
    notice = stop_notice_at([step] if has_notice else [], setattr)
    try:
        train(parse_spec(content), World(rank, world_size, CPU, 1), notice)
    except GracefulStop:
        assert step is not None
    dist.destroy_process_group()


def run_in_stages(content, stages, tmp_path):
    """Train with one world size after the other; each stage but the last stops at a step."""
    parse_spec(content).run_path.mkdir(parents=True, exist_ok=True)
    for number, (world_size, step) in enumerate(stages):
        store = tmp_path / f"stage{number}"
        arguments = (content, world_size, store, world_size - 1, step)
        run_ranks(run_rank_until_stopped, arguments, world_size)


@pytest.mark.slow
def test_stop_notice_on_one_of_two_workers_loses_nothing(make_content, tmp_path):
    reference, stopped = make_content(name="reference"), make_content(name="stopped")
    run_together(reference, 2, tmp_path)
    run_in_stages(stopped, [(2, 1), (2, 5), (2, None)], tmp_path)
    assert_same_result(parse_spec(stopped), parse_spec(reference))


@pytest.mark.slow
def test_elastic_run_has_the_result_of_the_fixed_one(make_content, teacher, tmp_path):
    """With BatchNorm, EMA, mixing and a smaller last step; 3 workers share 4 micro-batches."""
    sections = {
        "student": {"model": "cifar:resnet8"},
        "teacher": teacher,
        "augmentation": {"mixing": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}},
        "training": {
            "ema_decay": 0.9,
            "global_batch_size": 72,
            "micro_batch_size": 18,
            "drop_last": False,
        },
        "resources": {"num_workers": [1, 3]},
        "tracking": {"log_every_steps": 1},
    }
    contents = [make_content(name=name, **sections) for name in ("fixed", "elastic")]
    run_together(contents[0], 2, tmp_path)
    run_in_stages(contents[1], [(2, 1), (1, 3), (3, 5), (1, None)], tmp_path)
    fixed, elastic = map(parse_spec, contents)
    series, expected_series = loss_series(elastic), loss_series(fixed)
    assert [point[:2] for point in series] == [point[:2] for point in expected_series]
    pairs = [p for p in zip(series, expected_series, strict=True) if p[0][0] == "interval"]
    assert len(pairs) == 8
    for point, expected in pairs:
        # DTKD's loss is about 0.01, from logarithms that are rounded near 1.
        assert point[2:] == pytest.approx(expected[2:], rel=1e-5, abs=1e-6)
    weights, expected_weights = final(elastic)[0], final(fixed)[0]
    for name, value in expected_weights.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5)
