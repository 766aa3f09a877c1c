"""Training with every loss: numbers of workers, and runs that are killed and resumed."""

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
from service.spec.loading import parse_spec
from service.spec.losses import Losses
from service.training.checkpoint import OBJECTIVE_NAME, newest_checkpoint
from service.training.distributed import World
from service.training.trainer import train

NAMES = [name for name in LOSSES if name != "ce"]
# The datasets of these tests have four classes.
SETTINGS = {"ldrld": {"top_k": 3}}
WITH_STATE = ("ctkd", "gkl")
TOLERANCE = 1e-5


@pytest.fixture
def content_of(make_content, teacher):
    """Content of a spec with one loss and cross-entropy, of both views if it needs both."""

    def make(name, suffix, batch_size=48, **sections):
        losses = {"ce": {}, name: SETTINGS.get(name, {}), "warmup_epochs": 1}
        augmentation = {"crop": "pad_and_crop", "size": 16, "padding": 2}
        if Losses.model_validate(losses).uses_strong_view:
            losses["ce"] = {"views": "both"}
            augmentation["strong"] = {"rand_augment": {}}
        return make_content(
            name=f"{name}{suffix}",
            teacher=teacher,
            losses=losses,
            augmentation=augmentation,
            optimizer={"learning_rate": 0.01},
            schedule={"num_epochs": 2, "milestones": [1]},
            training={"global_batch_size": batch_size, "micro_batch_size": 8},
            evaluation={"every_epochs": 2},
            **sections,
        )

    return make


def train_all(rank, contents, world_size, store, attempt):
    """Train the specs one after the other with these ranks."""
    address = f"file://{store}{world_size}-{attempt}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
    for content in contents:
        train(parse_spec(content), World(rank, world_size, CPU, 1))
    dist.destroy_process_group()


def train_together(contents, world_size, tmp_path, attempt=0):
    for content in contents:
        parse_spec(content).run_path.mkdir(parents=True, exist_ok=True)
    run_ranks(train_all, (contents, world_size, tmp_path / "store", attempt), world_size)


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


def test_number_of_workers_does_not_change_any_loss(content_of, tmp_path):
    contents = {
        size: [
            content_of(
                name,
                f"-{size}",
                # Two steps in an epoch: in more, rounding may decide on which side of 0 a ReLU is.
                batch_size=96,
                resources={"num_workers": size, "cpus_per_worker": 1},
                checkpoints={"every_epochs": 2},
            )
            for name in NAMES
        ]
        for size in (1, 2, 3)
    }
    for size, some in contents.items():
        train_together(some, size, tmp_path)
    differences, students = {}, set()
    for name, one, *others in zip(NAMES, *contents.values(), strict=True):
        expected = state_of(one)
        found = [worst_difference(state_of(other), expected) for other in others]
        differences[name] = max(found)
        students.add(expected["fc.weight"].flatten()[0].item())
    print({name: f"{worst:.1e}" for name, worst in differences.items()})
    assert max(differences.values()) <= TOLERANCE
    # Each loss has trained another student.
    assert len(students) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_killed_run_with_any_loss_is_resumed_exactly(content_of, monkeypatch, name):
    contents = [content_of(name, end, checkpoints={"every_steps": 2}) for end in ("-a", "-b")]
    reference, killed = map(parse_spec, contents)
    run_alone(reference)
    killed_at = (4, 6, 9)
    stop_at(killed_at, monkeypatch.setattr)
    for _ in killed_at:
        with pytest.raises(InterruptedRunError):
            run_alone(killed)
    run_alone(killed)
    assert_same_result(killed, reference)
    states = [newest_checkpoint(spec.run_path) / OBJECTIVE_NAME for spec in (killed, reference)]
    assert [path.exists() for path in states] == [name in WITH_STATE] * 2
    if name in WITH_STATE:
        found, expected = map(load_file, states)
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_state_of_losses_goes_on_with_another_number_of_workers(content_of, tmp_path, monkeypatch):
    """Killed within an epoch, whose running sums two workers have so far."""
    resources = {"num_workers": 2, "cpus_per_worker": 1}
    both = {"resources": resources, "checkpoints": {"every_steps": 2}}
    references = [content_of(name, "-reference", **both) for name in WITH_STATE]
    resized = [content_of(name, "-resized", **both) for name in WITH_STATE]
    train_together(references, 2, tmp_path)
    for content in resized:
        parse_spec(content).run_path.mkdir(parents=True, exist_ok=True)
    run_ranks(stop_all, (resized, tmp_path / "stopped"), 2)
    train_together(resized, 3, tmp_path)
    for found, expected in zip(resized, references, strict=True):
        assert worst_difference(state_of(found), state_of(expected)) <= TOLERANCE


def stop_all(rank, contents, store):
    """Train the specs with two ranks until they are killed, before the seventh step."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    with pytest.MonkeyPatch.context() as patch:
        stop_at([7] * len(contents), patch.setattr)
        for content in contents:
            with pytest.raises(InterruptedRunError):
                train(parse_spec(content), World(rank, 2, CPU, 1))
    dist.destroy_process_group()
