"""Runs that are killed and resumed have the result of one that was not interrupted."""

import contextlib

import pytest
from comparison import assert_same_result
from support.training_runs import (
    InterruptedRunError,
    run_alone,
    run_rank,
    run_ranks,
    run_together,
    stop_at,
)

from service.spec.loading import parse_spec
from service.training.checkpoint import checkpoint_paths


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


def run_rank_until(rank, content, world_size, store, step):
    """As run_rank, but every worker is killed before a step."""
    stop_at([step], setattr)
    with contextlib.suppress(InterruptedRunError):
        run_rank(rank, content, world_size, store)


def test_two_workers_killed_within_an_epoch_lose_nothing(make_content, teacher, tmp_path):
    sections = {
        "teacher": teacher,
        "training": {"ema_decay": 0.9},
        "checkpoints": {"every_steps": 1},
        "tracking": {"log_every_steps": 3},
    }
    reference, killed = (make_content(name=name, **sections) for name in ("reference", "killed"))
    run_together(reference, 2, tmp_path)
    parse_spec(killed).run_path.mkdir(parents=True)
    for step in (3, 6):
        store = tmp_path / f"until{step}"
        run_ranks(run_rank_until, (killed, 2, store, step), 2)
    (tmp_path / "store2").unlink()
    run_together(killed, 2, tmp_path)
    assert_same_result(parse_spec(killed), parse_spec(reference))


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
