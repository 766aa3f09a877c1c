"""A GPU computes what a CPU does, resumes bit for bit, and no step waits for it."""

from collections.abc import Iterator
from unittest import mock

import torch
from support.resident_steps import ResidentSteps, resident_steps
from support.training_runs import InterruptedRunError, final
from table import Ratio, at_most, exactly
from torch import Tensor

from gpu.bench import Bench
from service.distillation.losses import LOSSES
from service.distillation.losses.base import Context, LossInputs
from service.distillation.objective import Objective
from service.spec.job import JobSpec
from service.spec.losses import Losses
from service.training.distributed import prepare_process
from service.training.trainer import Trainer, train

NUM_SAMPLES, NUM_CLASSES = 128, 100
NUM_STEPS = 4


def equal_losses(bench: Bench) -> Iterator[Ratio]:
    """The largest difference of value and gradient to the CPU's, relative to the largest entry."""
    for name in LOSSES:
        found, expected = (_loss_and_gradient(name, d) for d in (bench.device, torch.device("cpu")))
        differences = [
            float((ours - theirs).abs().max() / theirs.abs().max())
            for ours, theirs in zip(found, expected, strict=True)
        ]
        yield at_most(f"{name}: difference to the CPU, in 1e-5", 1e5 * max(differences), 1.0)


def _loss_and_gradient(name: str, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).mul(3).to(device)

    students = [drawn(NUM_SAMPLES, NUM_CLASSES).requires_grad_() for _ in "12"]
    teachers = [drawn(NUM_SAMPLES, NUM_CLASSES) for _ in "12"]
    labels = torch.randint(0, NUM_CLASSES, (NUM_SAMPLES,), generator=generator)
    context = Context(NUM_CLASSES, 10, classifier=drawn(NUM_CLASSES, 16))
    objective = Objective(Losses.model_validate({name: {}}), context).to(device)
    inputs = LossInputs(
        students[0],
        labels.to(device),
        epoch=5,
        teacher_logits=teachers[0],
        strong_student_logits=students[1],
        strong_teacher_logits=teachers[1],
    )
    total = objective(inputs).total
    total.backward()
    gradients = [student.grad for student in students if student.grad is not None]
    return [total.detach().cpu(), *(gradient.cpu() for gradient in gradients)]


def equal_resume(bench: Bench) -> Iterator[Ratio]:
    """Largest difference of a resumed run's weights to those of an uninterrupted one: none."""
    sections = {
        "training": {
            "precision": "bfloat16",
            "global_batch_size": min(bench.batch_sizes),
            "deterministic": True,
            "compile": "off",
        },
        "augmentation": {"size": bench.size, "mixing": {"mixup_alpha": 0.2}},
    }
    straight, resumed = (
        bench.spec(*bench.pairs["R34 -> R18"], **sections) for _ in ("straight", "resumed")
    )
    prepare_process(bench.device, deterministic=True)
    try:
        train(straight, bench.world)
        _train_one_epoch(bench, resumed)
        train(resumed, bench.world)
    finally:
        prepare_process(bench.device)
    weights = [final(spec)[0] for spec in (straight, resumed)]
    differences = [(weights[0][name] - weights[1][name]).abs().max() for name in weights[0]]
    yield exactly("resume: difference of the weights", float(max(differences)), 0.0)


def _train_one_epoch(bench: Bench, spec: JobSpec) -> None:
    finish_epoch = Trainer.finish_epoch

    def finish_and_stop(trainer: Trainer) -> None:
        finish_epoch(trainer)
        raise InterruptedRunError

    with mock.patch.object(Trainer, "finish_epoch", finish_and_stop):
        try:
            train(spec, bench.world)
        except InterruptedRunError:
            return
    raise AssertionError("the run was not interrupted")


def no_synchronization(bench: Bench) -> Iterator[Ratio]:
    """Steps in which the host waits for the device; the driver reports the first as an error."""
    mixing = {"augmentation": {"size": bench.size, "mixing": {"mixup_alpha": 0.2}}}
    training = {"global_batch_size": min(bench.batch_sizes), "ema_decay": 0.999}
    networks, skipping = bench.pairs["R34 -> R18"], {**training, "on_nonfinite": "skip"}
    clipped = {**training, "max_grad_norm": 5.0, "micro_batch_size": min(bench.batch_sizes) // 2}
    cases = {
        "CE": bench.spec(*bench.pairs["R18"], training=training),
        "DTKD and KD": bench.spec(*networks, training=training),
        "mixup, clipping, micro-batches": bench.spec(*networks, training=clipped, **mixing),
        "on_nonfinite skip": bench.spec(*networks, training=skipping),
        "cached teacher": bench.spec(*networks, training=training, teacher={"cache": {}}),
        # Its layers draw random numbers, too.
        "without BatchNorm, float16, LAMB": bench.spec(
            "convnext_tiny",
            training={**training, "precision": "float16"},
            optimizer={"kind": "lamb"},
        ),
    }
    for name, spec in cases.items():
        with resident_steps(spec, bench.world) as steps:
            for _ in range(NUM_STEPS):
                steps.step()
            yield exactly(f"synchronizing steps, {name}", _num_waiting(bench, steps), 0)


def _num_waiting(bench: Bench, steps: ResidentSteps) -> int:
    if bench.device.type != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for index in range(NUM_STEPS):
            try:
                steps.step()
            except RuntimeError as error:
                print(f"step {index}: {error}", flush=True)
                return NUM_STEPS - index
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return 0
