"""Builds the objects that a worker trains with from the spec's sections."""

import torch
from torch import nn

from data_pipeline import decoders
from data_pipeline.augmentation.samples import (
    Augmentations,
    ColorJitterParams,
    ErasingParams,
    RandAugmentParams,
)
from data_pipeline.loader import Crop
from service.distillation.losses.base import Context
from service.distillation.objective import Objective
from service.distillation.pixels import FrozenTeacher, PixelNormalizer
from service.distillation.task import DistillationTask, Trainee
from service.models.build import build_with_weights
from service.models.last_layer import classifier_weights, keep_last_layer_in_float32
from service.spec.data_sections import Augmentation, StrongView
from service.spec.job import JobSpec


def build_task(spec: JobSpec, device: torch.device) -> DistillationTask:
    """Student, teacher and losses on ``device``; convolutions in channels_last.

    Raises:
        BadInputError: a model or weights that cannot be used.
    """
    dtype = torch.bfloat16 if spec.training.precision == "bfloat16" else None
    student = build_with_weights(
        "student", spec.student.model, spec.dataset.num_classes, spec.student.weights
    )
    if dtype is not None:
        keep_last_layer_in_float32(student, spec.augmentation.size)
    teacher = _build_teacher(spec, device) if spec.uses_teacher else None
    objective = _build_objective(spec, teacher).to(device)
    return DistillationTask(
        Trainee(_placed(student, device), objective, dtype),
        PixelNormalizer(spec.dataset.normalization).to(device),
        teacher,
        autocast_dtype=dtype,
    )


def _build_teacher(spec: JobSpec, device: torch.device) -> FrozenTeacher:
    assert spec.teacher is not None
    model = build_with_weights(
        "teacher", spec.teacher.model, spec.dataset.num_classes, spec.teacher.weights
    )
    if spec.training.precision == "bfloat16":
        keep_last_layer_in_float32(model, spec.augmentation.size)
    normalization = spec.teacher.normalization or spec.dataset.normalization
    return FrozenTeacher(_placed(model, device), normalization).to(device)


def _build_objective(spec: JobSpec, teacher: FrozenTeacher | None) -> Objective:
    losses, num_classes = spec.effective_losses(), spec.dataset.num_classes
    classifier = None
    if teacher is not None and losses.needs_classifier:
        classifier = classifier_weights(teacher.model, num_classes, spec.augmentation.size)
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
