"""The plan of a run: steps, learning rates, FLOPs, memory and warnings, before it starts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from data_pipeline.order import num_steps_per_epoch
from service.models.activation_memory import saved_bytes
from service.models.build import (
    build_on_meta_device,
    check_fit,
    check_image_sizes,
    num_parameters,
)
from service.models.flops import flops_per_image
from service.models.last_layer import check_classifier
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob
from service.spec.networks import STUDENT, TEACHER, teacher_networks
from service.spec.optimization import STATE_TENSORS
from service.spec.overlap import overlap_warnings
from service.spec.sections import is_file_source
from service.spec.weights_metadata import stated_variant
from service.teacher_cache.demand import Runs
from service.teacher_cache.estimate import cache_lines
from service.training.schedules import learning_rate
from service.training.student_checks import check_student

FLOAT_BYTES = 4
HALF_PRECISIONS = ("bfloat16", "float16")
# Libraries, the CUDA context and buffers in flight, as seen on a worker with a tiny model.
WORKER_BASE_BYTES = 1_000_000_000
NUM_INDICES = 10


@dataclass(frozen=True)
class ModelCost:
    """Size and cost of one network; FLOPs count a multiply-add as two.

    ``image_size``: side of its largest training images, in pixels.
    """

    name: str
    num_parameters: int
    flops_per_image: int
    image_size: int


@dataclass(frozen=True)
class Plan:
    """The run in numbers; ``rates`` are (epoch, learning rate) where the rate changes course."""

    job: LoadedJob
    num_train_images: int
    num_evaluated_images: int
    num_steps_per_epoch: int
    models: tuple[ModelCost, ...]
    rates: tuple[tuple[float, float], ...]
    memory_bytes: int
    warnings: tuple[str, ...]

    @property
    def spec(self) -> JobSpec:
        """Of the run."""
        return self.job.spec


def make_plan(job: LoadedJob) -> Plan:
    """Count steps, FLOPs and memory; models are built without memory.

    Raises:
        BadInputError: a model that cannot be built, or does not take the images.
    """
    spec, train, val = job
    num_train_images, num_evaluated = train.num_images, val.num_images
    if spec.dataset.held_out is not None:
        num_evaluated = spec.dataset.held_out.num_images
        num_train_images -= num_evaluated
    num_steps = num_steps_per_epoch(
        num_train_images, spec.training.global_batch_size, drop_last=spec.training.drop_last
    )
    models = build_models_on_meta(spec)
    memory_bytes = WORKER_BASE_BYTES + _training_bytes(spec, models[STUDENT])
    if spec.uses_teacher:
        teachers = teacher_networks(spec.teacher)
        memory_bytes += FLOAT_BYTES * sum(num_parameters(models[path]) for path in teachers)
    return Plan(
        job,
        num_train_images,
        num_evaluated,
        num_steps,
        tuple(_cost(spec, path, model) for path, model in models.items()),
        tuple(_rates(spec, num_steps)),
        memory_bytes,
        tuple(_warnings(job, num_train_images)),
    )


def build_models_on_meta(spec: JobSpec) -> dict[str, nn.Module]:
    """The models' shapes by path, student first.

    Raises:
        BadInputError: a model that cannot be built, or that cannot take the images that training
            and evaluation give it.
    """
    models = {}
    for path, network in spec.networks().items():
        name, num_classes = network.model, spec.num_classes_of(path)
        models[path] = build_on_meta_device(
            name, num_classes, stated_variant(name, network.weights), spec.options_of(path)
        )
        check_image_sizes(path, name, models[path], num_classes, spec.image_sizes_of(path))
        if path == STUDENT:
            check_student(spec, models[path])
        if path == TEACHER and spec.effective_losses().needs_classifier:
            size = spec.input_size(path, spec.augmentation.size)
            check_classifier(name, models[path], num_classes, size)
    return models


def check_weights_fit(spec: JobSpec) -> list[str]:
    """Check that local files of weights have the models' names and shapes; a line for each choice.

    Raises:
        BadInputError: they do not fit.
    """
    lines: list[str] = []
    for path, network in spec.networks().items():
        if network.weights and is_file_source(network.weights.source):
            lines += check_fit(path, network.model, spec.num_classes_of(path), network.weights)
    return lines


def format_plan(plan: Plan) -> str:
    """The plan as text for a person."""
    spec = plan.spec
    steps, epochs = plan.num_steps_per_epoch, spec.schedule.num_epochs
    lines = [
        f"run {spec.name}, hash {spec.content_hash()[:16]}, in {spec.run_path}",
        f"{plan.num_train_images:,} train and {plan.num_evaluated_images:,} "
        f"{spec.dataset.evaluated} images",
        f"{epochs} epochs x {steps:,} steps = {epochs * steps:,} steps of "
        f"{spec.training.global_batch_size} images",
        _shares(spec),
        _losses(spec),
        "learning rate: " + ", ".join(f"epoch {at:g}: {rate:.4g}" for at, rate in plan.rates),
    ]
    lines += [
        f"{cost.name}: {cost.num_parameters / 1e6:.2f} M parameters, "
        f"{cost.flops_per_image / 1e9:.3f} GFLOPs per image of {cost.image_size} px"
        for cost in plan.models
    ]
    lines += _teachers(spec)
    teacher_flops = sum(cost.flops_per_image for cost in plan.models[1:])
    lines += cache_lines([Runs(plan.job)], lambda _: teacher_flops)
    resources = spec.resources
    each = f"{resources.cpus_per_worker} CPUs" + (" and a GPU" if resources.gpu else "")
    lines.append(f"each worker: {each}, about {plan.memory_bytes / 1e9:.1f} GB of memory")
    lines += [f"warning: {warning}" for warning in plan.warnings]
    return "\n".join(lines)


def _teachers(spec: JobSpec) -> Iterator[str]:
    """Which classes of the teacher's networks are used, and what their mean is."""
    networks = teacher_networks(spec.teacher)
    for path, network in networks.items():
        if isinstance(network.classes, tuple):
            count, first = len(network.classes), ", ".join(map(str, network.classes[:NUM_INDICES]))
            more = ", ..." if count > NUM_INDICES else ""
            own = f"{spec.num_classes_of(path):,}"
            yield f"{path} {network.model}: {count:,} of its {own} classes: {first}{more}"
    if spec.teacher is not None and spec.teacher.others:
        parts = [f"{path} {network.weight:g}" for path, network in networks.items()]
        yield f"mean of the {spec.teacher.mean_of} of {', '.join(parts)}"


def _losses(spec: JobSpec) -> str:
    """What is in the total, with the weights."""
    losses = spec.effective_losses()
    parts = [f"{name} {section.weight:g}" for name, section in losses.active.items()]
    text = "losses: " + ", ".join(parts)
    if losses.needs_teacher:
        warmup_epochs = losses.warmup_epochs_of(spec.schedule.num_epochs)
        text += f"; all but ce rise to their weights over {warmup_epochs:.3g} epochs"
    return text + ("; of two views of each image" if losses.uses_strong_view else "")


def _shares(spec: JobSpec) -> str:
    """Who computes what of a step."""
    resources, micro, count = spec.resources, spec.micro_batch_size, spec.num_micro_batches
    if resources.is_elastic:
        return (
            f"{resources.min_workers} to {resources.max_workers} workers share {count} "
            f"micro-batches of {micro} images per step"
        )
    low, high = count // resources.max_workers, -(-count // resources.max_workers)
    each = f"{low}" if low == high else f"{low} or {high}"
    return f"{resources.max_workers} workers x {each} micro-batches of {micro} images per step"


def _cost(spec: JobSpec, path: str, model: nn.Module) -> ModelCost:
    name = f"{path} {spec.networks()[path].model}"
    size = spec.input_size(path, spec.augmentation.largest_size)
    return ModelCost(name, num_parameters(model), flops_per_image(model, size), size)


def _training_bytes(spec: JobSpec, student: nn.Module) -> int:
    """Weights, gradients, optimizer state, average, and what one micro-batch saves for backward."""
    num_copies = 2 + STATE_TENSORS[spec.optimizer.kind]
    num_copies += spec.training.ema_decay is not None
    parameters = FLOAT_BYTES * num_parameters(student) * num_copies
    num_views = 1 if spec.augmentation.strong is None else 2
    of_micro_batch = num_views * _saved_bytes(spec, student) * spec.micro_batch_size
    if spec.training.precision in HALF_PRECISIONS:
        of_micro_batch //= 2
    # Several micro-batches share a pass, up to the limit.
    of_worker = of_micro_batch * -(-spec.num_micro_batches // spec.resources.min_workers)
    limit = max(of_micro_batch, spec.training.max_activation_bytes)
    return parameters + min(of_worker, limit)


def _saved_bytes(spec: JobSpec, student: nn.Module) -> int:
    """What a forward pass keeps of an image for the backward pass."""
    size, is_checkpointed = spec.augmentation.largest_size, spec.training.checkpoint_activations
    few, more = (
        saved_bytes(
            student,
            torch.empty(count, 3, size, size, device="meta"),
            is_checkpointed=is_checkpointed,
        )
        for count in (2, 4)
    )
    return (more - few) // 2


def _rates(spec: JobSpec, num_steps_per_epoch: int) -> Iterator[tuple[float, float]]:
    """The learning rate at the start, after the warm-up, at milestones or quarters, at the end."""
    schedule, epochs = spec.schedule, spec.schedule.num_epochs
    points = {0.0, float(epochs), min(schedule.warmup_epochs, float(epochs))}
    if schedule.kind == "multistep":
        points |= {float(epoch) for epoch in schedule.milestones}
    else:
        points |= {epochs * quarter / 4 for quarter in (1, 2, 3)}
    last = epochs * num_steps_per_epoch - 1
    for point in sorted(points):
        step = min(math.ceil(point * num_steps_per_epoch), last)
        peak = spec.optimizer.learning_rate
        yield point, learning_rate(schedule, peak, step, num_steps_per_epoch)


def _warnings(job: LoadedJob, num_train_images: int) -> Iterator[str]:
    spec, train, val = job
    for split, facts in (("train", train), ("val", val)):
        if facts.classes is None:
            yield f"dataset.{split} has no manifest: damage would not be noticed at the start"
    overlaps = list(overlap_warnings(spec.dataset, spec.dataset.held_out))
    yield from overlaps
    # Files without digests, or in an object store, are compared as a whole.
    if train.fingerprint == val.fingerprint and not overlaps:
        yield "dataset.val is the same as dataset.train: its accuracy will say nothing"
    if job.classes is not None and len(job.classes) != spec.dataset.num_classes:
        yield (
            f"dataset.num_classes is {spec.dataset.num_classes}, but the dataset has "
            f"{len(job.classes)} classes"
        )
    left_over = num_train_images % spec.training.global_batch_size
    if left_over and spec.training.drop_last:
        yield (
            f"each epoch drops {left_over} images, different ones each time: the training set is "
            "not a multiple of training.global_batch_size"
        )
    if spec.teacher and not spec.uses_teacher:
        yield "no loss with a positive weight needs the teacher: it is not used"
    if spec.num_micro_batches % spec.resources.max_workers:
        yield (
            f"{spec.num_micro_batches} micro-batches are no multiple of "
            f"{spec.resources.max_workers} workers: some wait for the others in every step"
        )
    if spec.resources.max_workers > 1 and spec.training.micro_batch_size is None:
        yield (
            "training.micro_batch_size is not set: BatchNorm sees "
            f"{spec.micro_batch_size} images, and other ones with other numbers of workers"
        )
    if spec.uses_teacher and spec.teacher and spec.teacher.min_top1 is None:
        yield "teacher.min_top1 is not set: a teacher with wrong labels would not be noticed"
    if spec.resources.gpu and spec.training.precision == "float32":
        yield "training.precision is float32 on a GPU; auto chooses what is faster, often twice"
    if not spec.resources.gpu and spec.training.precision == "float16":
        yield "training.precision is float16 on CPUs, where bfloat16 is faster"
