"""Training with all losses at once: numbers of workers, and runs that are killed and resumed."""

from itertools import zip_longest

import pytest
import torch
import torch.distributed as dist
from comparison import assert_same_result
from safetensors.torch import load_file
from support.training_runs import (
    CPU,
    InterruptedRunError,
    final,
    run_alone,
    run_ranks,
    stop_at,
)

from service.distillation.losses import LOSSES
from service.run.journal import JOURNAL_NAME, read_events
from service.spec.loading import parse_spec
from service.spec.losses import Losses
from service.training.checkpoint import OBJECTIVE_NAME, newest_checkpoint
from service.training.distributed import World
from service.training.trainer import train

# The datasets of these tests have four classes.
SETTINGS = {"ldrld": {"top_k": 3}, "ce": {"views": "both"}}
TOLERANCE = 1e-5


@pytest.fixture
def content_of(make_content, teacher):
    """Content of a spec with losses by name, of both views, in about equal shares."""

    def make(name, names=tuple(LOSSES), batch_size=48, **sections):
        losses = {one: {"weight": 0.1, **SETTINGS.get(one, {})} for one in {"ce", *names}}
        return make_content(
            name=name,
            teacher=teacher,
            losses={**losses, "warmup_epochs": 1, "entropy_weights": {}},
            augmentation={"crop": "pad_and_crop", "size": 16, "padding": 2, "strong": {}},
            optimizer={"learning_rate": 0.01},
            schedule={"num_epochs": 2, "milestones": [1]},
            training={"global_batch_size": batch_size, "micro_batch_size": 8},
            tracking={"log_every_steps": 1},
            **sections,
        )

    return make


def train_all(rank, contents, world_size, store):
    """Train the specs one after the other with these ranks."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    for content in contents:
        train(parse_spec(content), World(rank, world_size, CPU, 1))
    dist.destroy_process_group()


def train_together(contents, world_size, tmp_path):
    for content in contents:
        parse_spec(content).run_path.mkdir(parents=True, exist_ok=True)
    run_ranks(train_all, (contents, world_size, tmp_path / f"store{world_size}"), world_size)


def state_of(content):
    """The student's tensors and those of the losses' state, after the last step."""
    spec = parse_spec(content)
    path = newest_checkpoint(spec.run_path) / OBJECTIVE_NAME
    return {**final(spec)[0], **(load_file(path) if path.exists() else {})}


def worst_difference(found, expected):
    assert found.keys() == expected.keys()
    return max(
        (found[key].double() - expected[key].double()).abs().max().item() for key in expected
    )


def test_number_of_workers_does_not_change_the_losses(content_of, tmp_path):
    """All at once, and by themselves those that couple samples or have state."""
    alone = [
        name
        for name in LOSSES
        if getattr(Losses.model_validate({name: {}}), name).couples_samples or name == "ctkd"
    ]
    contents = {}
    # Three workers train all at once: what one loss does wrong there changes the student too.
    for size, names in ((1, alone), (2, alone), (3, [])):
        # Two steps in an epoch: in more, rounding may decide on which side of 0 a ReLU is.
        options = {"batch_size": 96, "resources": {"num_workers": size, "cpus_per_worker": 1}}
        some = [content_of(f"{name}-{size}", [name], **options) for name in names]
        contents[size] = [content_of(f"all-{size}", **options), *some]
        train_together(contents[size], size, tmp_path)
    for one, *others in zip_longest(*contents.values()):
        expected = state_of(one)
        found = [state_of(other) for other in others if other is not None]
        assert found
        assert all(worst_difference(state, expected) <= TOLERANCE for state in found)
        events = read_events(parse_spec(one).run_path / JOURNAL_NAME)
        values = next(event.values for event in events if event.kind == "interval")
        names = {name for name in LOSSES if f"train/{name}" in values}
        assert names == {name for name in one["losses"] if name in LOSSES}


def test_killed_run_with_all_losses_is_resumed_exactly(content_of, monkeypatch):
    contents = [content_of(name, checkpoints={"every_steps": 2}) for name in ("whole", "killed")]
    whole, killed = map(parse_spec, contents)
    run_alone(whole)
    killed_at = (4, 6, 9)
    stop_at(killed_at, monkeypatch.setattr)
    for _ in killed_at:
        with pytest.raises(InterruptedRunError):
            run_alone(killed)
    run_alone(killed)
    assert_same_result(killed, whole)
    found, expected = map(state_of, contents)
    assert {"losses.ctkd.theta", "losses.gkl.class_means"} <= expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_state_of_losses_goes_on_with_another_number_of_workers(content_of, tmp_path):
    """Killed within an epoch, whose running sums two workers have so far."""
    options = {
        "resources": {"num_workers": 2, "cpus_per_worker": 1},
        "checkpoints": {"every_steps": 2},
    }
    names = ["ctkd", "gkl"]
    whole, resized = (content_of(name, names, **options) for name in ("whole", "resized"))
    train_together([whole], 2, tmp_path)
    parse_spec(resized).run_path.mkdir(parents=True, exist_ok=True)
    run_ranks(train_until_killed, (resized, tmp_path / "killed"), 2)
    train_together([resized], 3, tmp_path)
    assert worst_difference(state_of(resized), state_of(whole)) <= TOLERANCE


def train_until_killed(rank, content, store):
    """Train with two ranks until they are killed, before the seventh step."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    with pytest.MonkeyPatch.context() as patch:
        stop_at([7], patch.setattr)
        with pytest.raises(InterruptedRunError):
            train(parse_spec(content), World(rank, 2, CPU, 1))
    dist.destroy_process_group()
