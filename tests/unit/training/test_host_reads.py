"""No step reads a tensor on the host: on a GPU, each read would wait for all that was launched.

An evaluation reads its figures at its end, and nothing for each batch.

Here the device is the CPU; what is watched are the operations that read, whatever the device.
"""

from itertools import islice

import pytest
import torch
from support.host_reads import host_reads
from support.training_runs import CPU

from service.distillation.losses import LOSSES
from service.spec.loading import parse_spec
from service.training.distributed import World
from service.training.trainer import Trainer


@pytest.mark.parametrize(
    "read",
    [
        lambda tensor: tensor.item(),
        lambda tensor: float(tensor),
        lambda tensor: int(tensor),
        lambda tensor: [1, 2][tensor.long()],
        lambda tensor: bool(tensor > 0),
        lambda tensor: tensor.cpu(),
        lambda tensor: tensor.to("cpu"),
        lambda tensor: tensor.tolist(),
        lambda tensor: tensor.numpy(),
        lambda tensor: torch.arange(3)[tensor > torch.zeros(3)],
        lambda tensor: torch.nn.functional.one_hot(tensor.long()),
    ],
)
@pytest.mark.parametrize("in_inference_mode", [False, True])
def test_reads_are_noticed(read, in_inference_mode):
    tensor = torch.ones(())
    with host_reads() as reads, torch.inference_mode(in_inference_mode):
        read(tensor)
    assert reads


def reads_of_steps(spec, num_steps=3):
    """What some steps read, each but the first of which settles the one before it."""
    spec.run_path.mkdir(parents=True)
    with Trainer(spec, World(0, 1, CPU, 1), lambda: None) as trainer:
        batches = list(islice(trainer.remaining_batches(), num_steps))
        with host_reads() as reads:
            for batch in batches:
                trainer.step(batch)
        assert trainer.progress.step == num_steps
    return reads


SECTIONS = {
    "plain": {},
    "clipped, averaged, with AdamW": {
        "training": {"max_grad_norm": 1.0, "ema_decay": 0.9, "on_nonfinite": "skip"},
        "optimizer": {"kind": "adamw", "learning_rate": 0.01},
    },
    "mixed, in passes of several micro-batches": {
        "augmentation": {"mixing": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}},
        "training": {"micro_batch_size": 16, "label_smoothing": 0.1},
    },
    "in bfloat16": {"training": {"precision": "bfloat16"}},
    "in float16": {"training": {"precision": "float16"}},
}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_step_reads_nothing(make_content, teacher, name):
    resources = {"num_workers": 1}
    spec = parse_spec(make_content(teacher=teacher, resources=resources, **SECTIONS[name]))
    assert reads_of_steps(spec) == []


def test_a_step_whose_teacher_is_cached_reads_nothing(make_content, teacher):
    """But the first of a run, which measures the error of what is stored."""
    sections = {"teacher": {**teacher, "cache": {"epochs": 1}}, "resources": {"num_workers": 1}}
    spec = parse_spec(make_content(**sections))
    spec.run_path.mkdir(parents=True)
    with Trainer(spec, World(0, 1, CPU, 1), lambda: None) as trainer:
        trainer.step(next(trainer.remaining_batches()))
        for _ in range(2):
            # Filled in the first epoch, and read in the second.
            batches = list(trainer.remaining_batches())
            with host_reads() as reads:
                for batch in batches:
                    trainer.step(batch)
            assert reads == []
            trainer.finish_epoch()


@pytest.mark.parametrize("is_mixed", [False, True])
def test_no_loss_reads_anything(make_content, teacher, is_mixed):
    """All losses at once, each at its default settings."""
    losses = {name: {} for name in LOSSES} | {"ldrld": {"top_k": 3}, "entropy_weights": {}}
    augmentation = {"strong": {}}
    if is_mixed:
        augmentation["mixing"] = {"cutmix_alpha": 1.0}
    sections = {
        "losses": losses,
        "augmentation": augmentation,
        "training": {"micro_batch_size": 32},
        "resources": {"num_workers": 1},
    }
    assert reads_of_steps(parse_spec(make_content(teacher=teacher, **sections))) == []


def reads_of_evaluations(spec, is_last):
    """What the evaluations of the teacher and of the student read."""
    spec.run_path.mkdir(parents=True)
    with Trainer(spec, World(0, 1, CPU, 1), lambda: None) as trainer:
        with host_reads() as of_teacher:
            trainer.check_teacher()
        with host_reads() as of_student:
            trainer._student_evaluation.run(is_last=is_last)
    return of_teacher, of_student


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_evaluation_reads_as_much_whatever_its_batches_are(
    make_content, teacher, precision, is_last
):
    sections = {
        "teacher": {**teacher, "min_top1": 0.001, "min_top1_images": 5},
        "training": {"precision": precision, "ema_decay": 0.9},
        "resources": {"num_workers": 1},
        "dataset": {"max_undecodable": 1},
    }
    of_one_batch, of_many = (
        reads_of_evaluations(
            parse_spec(make_content(name=name, evaluation={"batch_size": size}, **sections)),
            is_last,
        )
        for name, size in (("one", 1024), ("many", 3))
    )
    assert of_many == of_one_batch
    # The sums and, of each image, what it was taken for.
    assert all(0 < len(reads) < 30 for reads in of_one_batch)
