"""Runs that are killed and resumed have the result of one that was not interrupted."""

import contextlib

import pytest
import torch.distributed as dist
from comparison import assert_same_result
from support.training_runs import CPU, InterruptedRunError, run_alone, run_ranks, stop_at

from service.run.control import GracefulStop
from service.run.journal import JOURNAL_NAME, read_events
from service.spec.loading import parse_spec
from service.training.checkpoint import checkpoint_paths
from service.training.distributed import World
from service.training.trainer import Trainer, train


def test_run_interrupted_between_epochs_loses_nothing(make_content, teacher):
    sections = {
        "teacher": teacher,
        "schedule": {"num_epochs": 4, "milestones": [2]},
        "training": {"ema_decay": 0.9},
    }
    reference = parse_spec(make_content(name="reference", **sections))
    resumed = parse_spec(make_content(name="resumed", **sections))
    run_alone(reference)
    for num_epochs in (1, 2):
        with pytest.raises(InterruptedRunError):
            run_alone(resumed, stop_after_epochs=num_epochs)
    run_alone(resumed)
    assert_same_result(resumed, reference)


@pytest.mark.parametrize("every_steps", [1, 2, 3])
def test_run_killed_within_epochs_loses_nothing(make_content, teacher, monkeypatch, every_steps):
    sections = {
        "teacher": teacher,
        "schedule": {"num_epochs": 3, "milestones": [2]},
        "training": {"ema_decay": 0.9},
        "checkpoints": {"every_steps": every_steps},
        "tracking": {"log_every_steps": 3},
    }
    reference = parse_spec(make_content(name="reference", **sections))
    killed = parse_spec(make_content(name="killed", **sections))
    run_alone(reference)
    killed_at = (1, 3, 4, 6, 11, 12)
    stop_at(killed_at, monkeypatch.setattr)
    for _ in killed_at:
        with pytest.raises(InterruptedRunError):
            run_alone(killed)
    run_alone(killed)
    assert_same_result(killed, reference)


# (how, step) in a run of two epochs of five steps: killed before a step, or notified in a step,
# after which it stops. Nothing is saved before step 1; steps 5 and 10 end epochs that are not
# evaluated yet; before step 6 the state is that of an epoch's boundary.
INTERRUPTIONS = (("kill", 1), ("kill", 4), ("stop", 5), ("kill", 6), ("stop", 8), ("stop", 10))


def run_rank_in_stages(rank, content, world_size, folder, interruptions):
    """A worker that is interrupted and starts again, as often as ``interruptions`` say."""
    step = Trainer.step
    for number, (how, at) in enumerate([*interruptions, ("end", 0)]):
        current = [0]

        def step_or_interrupt(trainer, batch, how=how, at=at, current=current):
            current[0] = trainer.progress.step + 1
            if (how, at) == ("kill", current[0]):
                raise InterruptedRunError
            return step(trainer, batch)

        def notice(how=how, at=at, current=current):
            # One rank has it alone.
            is_due = how == "stop" and current[0] == at and rank == world_size - 1
            return "the test requested it" if is_due else None

        Trainer.step = step_or_interrupt
        store = f"file://{folder / f'store{number}'}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
        with contextlib.suppress(InterruptedRunError, GracefulStop):
            train(parse_spec(content), World(rank, world_size, CPU, 1), notice)
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world_size", "student"),
    # The gradients of tiny_cnn fit in one of DDP's buckets, those of resnet8x4 do not.
    [(2, "tiny_cnn"), (3, "resnet8x4"), (4, "tiny_cnn")],
)
def test_workers_interrupted_at_any_point_lose_nothing(
    make_content, teacher, tmp_path, world_size, student
):
    sections = {
        "teacher": teacher,
        "student": {"model": f"cifar:{student}"},
        "training": {"ema_decay": 0.9, "global_batch_size": 48, "micro_batch_size": 4},
        "resources": {"num_workers": world_size},
        "checkpoints": {"every_steps": 1},
        "tracking": {"log_every_steps": 3},
    }
    contents = [make_content(name=name, **sections) for name in ("reference", "interrupted")]
    for content, interruptions in zip(contents, ((), INTERRUPTIONS), strict=True):
        spec = parse_spec(content)
        spec.run_path.mkdir(parents=True)
        folder = tmp_path / spec.name
        folder.mkdir()
        run_ranks(run_rank_in_stages, (content, world_size, folder, interruptions), world_size)
    reference, interrupted = map(parse_spec, contents)
    starts = [e.step for e in read_events(interrupted.run_path / JOURNAL_NAME) if e.kind == "start"]
    assert starts == [0, 0, 3, 5, 5, 8, 10]
    assert_same_result(interrupted, reference)


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
def test_checkpoints_are_saved_at_the_configured_times(make_content, sections, steps):
    spec = parse_spec(make_content(checkpoints={**sections, "num_to_keep": 9}))
    run_alone(spec)
    found = sorted(int(path.name.split("_")[1]) for path in checkpoint_paths(spec.run_path))
    assert found == steps
