"""Builds the objects that a worker trains with from the spec's sections."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from data_pipeline import decoders
from data_pipeline.augmentation.samples import (
    Augmentations,
    ColorJitterParams,
    ErasingParams,
    RandAugmentParams,
)
from data_pipeline.batches import Crop
from service.distillation.ensemble import TeacherEnsemble
from service.distillation.losses.base import Context
from service.distillation.objective import Objective
from service.distillation.pixels import FrozenTeacher, PixelNormalizer
from service.distillation.task import DistillationTask, Trainee
from service.models.activation_checkpointing import checkpoint_blocks
from service.models.build import build_with_weights
from service.models.last_layer import classifier_weights, keep_last_layer_in_float32
from service.run.execution import Execution, NumberFormat
from service.spec.data_sections import Augmentation, StrongView
from service.spec.job import JobSpec
from service.spec.networks import STUDENT, TEACHER, teacher_networks
from service.spec.teacher_sections import TeacherNetwork
from service.training.precisions import autocast_dtype
from service.training.teacher_forms import images_per_pass, take_form


def build_task(
    spec: JobSpec,
    device: torch.device,
    execution: Execution,
    *,
    batch_size: int = 0,
    warn: Callable[[str], None] = lambda _: None,
) -> DistillationTask:
    """Student, teacher and losses on ``device``; convolutions in channels_last.

    ``batch_size`` and ``warn``: see ``build_teacher``. The student is as it was built, whatever
    ``execution.compile_student`` says.

    Raises:
        BadInputError: a model or weights that cannot be used.
    """
    student = build_student(spec, execution.precision)
    teacher = None
    if spec.uses_teacher:
        teacher = build_teacher(spec, device, execution, batch_size=batch_size, warn=warn)
    objective = _build_objective(spec, teacher).to(device)
    return DistillationTask(
        Trainee(_placed(student, device), objective, autocast_dtype(execution.precision)),
        PixelNormalizer(spec.dataset.normalization).to(device),
        teacher,
        autocast_dtype=autocast_dtype(execution.teacher_precision),
    )


def build_student(spec: JobSpec, precision: NumberFormat) -> nn.Module:
    """The student, on the CPU.

    Raises:
        BadInputError: a model or weights that cannot be used.
    """
    student = build_with_weights(
        STUDENT,
        spec.student.model,
        spec.dataset.num_classes,
        spec.student.weights,
        options=spec.options_of(STUDENT),
    )
    if spec.training.checkpoint_activations:
        checkpoint_blocks(student)
    if precision != "float32":
        keep_last_layer_in_float32(student, spec.augmentation.size)
    return student


def build_teacher(
    spec: JobSpec,
    device: torch.device,
    execution: Execution,
    *,
    batch_size: int = 0,
    warn: Callable[[str], None] = lambda _: None,
) -> FrozenTeacher | TeacherEnsemble:
    """The teacher of a spec that has one, on ``device``: its network, or the mean of several.

    The classes of its networks must be indices, as in the specs that are trained.

    Args:
        batch_size: images of this worker in a step, which are classified in equal parts that fit
            in training.max_activation_bytes; 0: batches are classified as they are.
        warn: gets a line where it cannot be compiled, and runs eagerly.

    Raises:
        BadInputError: a model or weights that cannot be used.
    """
    assert spec.teacher is not None
    networks = teacher_networks(spec.teacher)
    members = [
        _build_member(spec, path, network, device, execution.teacher_precision)
        for path, network in networks.items()
    ]
    is_16_bit = execution.teacher_precision != "float32"
    for member in members:
        if batch_size:
            member.num_at_once = images_per_pass(spec, member, batch_size, is_16_bit=is_16_bit)
        take_form(member, execution.teacher, member.num_at_once or 0, warn)
    if len(members) == 1:
        return members[0]
    weights = [network.weight for network in networks.values()]
    return TeacherEnsemble(members, weights, spec.teacher.mean_of).to(device)


def _build_member(
    spec: JobSpec, path: str, network: TeacherNetwork, device: torch.device, precision: NumberFormat
) -> FrozenTeacher:
    assert network.classes != "by_name", "the driver resolves them"
    model = build_with_weights(path, network.model, spec.num_classes_of(path), network.weights)
    if precision != "float32":
        keep_last_layer_in_float32(model, spec.input_size(path, spec.augmentation.size))
    return FrozenTeacher(
        _placed(model, device),
        network.normalization or spec.dataset.normalization,
        network.classes,
        partial(network.input_size, crop_size=spec.evaluation.crop_size),
    ).to(device)


def _build_objective(spec: JobSpec, teacher: FrozenTeacher | TeacherEnsemble | None) -> Objective:
    losses, num_classes = spec.effective_losses(), spec.dataset.num_classes
    classifier = None
    if losses.needs_classifier:
        assert isinstance(teacher, FrozenTeacher), "a rule refuses several teachers"
        size = spec.input_size(TEACHER, spec.augmentation.size)
        classifier = classifier_weights(teacher.model, spec.num_classes_of(TEACHER), size)
        if classifier is not None and teacher.classes is not None:
            classifier = classifier[teacher.classes]
    smoothing = spec.training.label_smoothing
    context = Context(num_classes, spec.schedule.num_epochs, smoothing, classifier)
    return Objective(losses, context)


def _placed(model: nn.Module, device: torch.device) -> nn.Module:
    return model.to(device).to(memory_format=torch.channels_last)


def train_crop(augmentation: Augmentation, size: int) -> Crop:
    """The loader's crop of training images; ``size`` in pixels."""
    kinds = {
        "random_resized": decoders.RANDOM_RESIZED_CROP,
        "pad_and_crop": decoders.PAD_AND_CROP,
    }
    return Crop(
        kind=kinds[augmentation.crop],
        size=size,
        scale=augmentation.scale,
        ratio=augmentation.ratio,
        flip_probability=augmentation.flip_probability,
        padding=augmentation.padding,
    )


def augmentations(spec: JobSpec) -> Augmentations | None:
    """What is done to training images after their crop; None if nothing is."""
    wanted = spec.augmentation
    if not (wanted.rand_augment or wanted.color_jitter or wanted.erasing):
        return None
    return _augmentations(wanted, spec)


def strong_augmentations(spec: JobSpec) -> Augmentations | None:
    """The same of the images' strong view; None if there is no such view."""
    wanted = spec.augmentation.strong
    return _augmentations(wanted, spec) if wanted is not None else None


def _augmentations(wanted: Augmentation | StrongView, spec: JobSpec) -> Augmentations:
    red, green, blue = (round(255 * mean) for mean in spec.dataset.normalization.mean)
    mean_color = (red, green, blue)
    return Augmentations(
        rand_augment=RandAugmentParams(**wanted.rand_augment.model_dump())
        if wanted.rand_augment
        else None,
        color_jitter=ColorJitterParams(**wanted.color_jitter.model_dump())
        if wanted.color_jitter
        else None,
        erasing=ErasingParams(**wanted.erasing.model_dump(), color=mean_color)
        if wanted.erasing
        else None,
    )
