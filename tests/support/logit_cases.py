"""Logits to check losses with, and what builds a loss and its inputs from them."""

import numpy as np
import torch

import service.spec.losses as sections
from service.distillation.losses import LOSSES
from service.distillation.losses.base import Context, LossInputs

NUM_FEATURES = 6


def softmax(z, axis=-1):
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def kl(p, q):
    return sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True))


def random_logits(*shape, count=2, seed=0, scales=(4.0, 1.5)):
    """Float64 tensors of one shape, teacher's and student's in turn."""
    generator = torch.Generator().manual_seed(seed)
    return [
        scales[index % 2] * torch.randn(*shape, generator=generator, dtype=torch.float64)
        for index in range(count)
    ]


def random_labels(*shape, num_classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(num_classes, shape, generator=generator)


def classifier(num_classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_classes, NUM_FEATURES, generator=generator)


def build_loss(name, num_classes, *, num_epochs=10, **settings):
    section = sections.Losses.model_validate({name: settings}).active[name]
    context = Context(num_classes, num_epochs, classifier=classifier(num_classes))
    return LOSSES[name](section, context)


def inputs_of(views, labels, mask=None, epoch=0, weight_in_sums=1):
    """Inputs from logits of teacher and student, of the weak view, then of the strong one."""
    u, v, strong_u, strong_v = views
    return LossInputs(
        student_logits=v,
        targets=labels,
        epoch=epoch,
        teacher_logits=u,
        strong_student_logits=strong_v,
        strong_teacher_logits=strong_u,
        mask=mask,
        weight_in_sums=weight_in_sums,
    )


def extreme_logits(kind, batch, num_classes, seed):
    """Float32 logits [batch, num_classes] at the limits of what networks return."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, num_classes, generator=generator)
    if kind == "saturated":
        one_hot = torch.nn.functional.one_hot(z.argmax(dim=1), num_classes)
        return 200.0 * one_hot
    return {"plain": z, "tied": torch.full_like(z, 0.3), "huge": z * 1e6, "tiny": z * 1e-6}[kind]


EXTREMES = ("plain", "saturated", "tied", "huge", "tiny")
