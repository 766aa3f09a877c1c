"""Builds models by name, with random weights or with the weights that a spec names."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from service.models.cifar import build_cifar_model
from service.models.weights import load_weights
from service.spec.errors import BadInputError, Problem
from service.spec.model_names import CIFAR_PREFIX, TIMM_PREFIX, WITH_AUXILIARY_HEADS
from service.spec.sections import Weights


def build_model(name: str, num_classes: int) -> nn.Module:
    """Build a classifier with random weights: images [B, 3, H, W] to logits [B, num_classes].

    Raises:
        BadInputError: timm is not installed, or does not have this model.
    """
    if name.startswith(CIFAR_PREFIX):
        return build_cifar_model(name.removeprefix(CIFAR_PREFIX), num_classes)
    if name.startswith(TIMM_PREFIX):
        return _build_timm_model(name.removeprefix(TIMM_PREFIX), num_classes)
    import torchvision.models

    options: dict[str, Any] = {}
    if name in WITH_AUXILIARY_HEADS:
        options = {"aux_logits": False, "init_weights": True}
    return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)


def build_with_weights(
    role: str, name: str, num_classes: int, weights: Weights | None
) -> nn.Module:
    """Build the model of ``role`` (teacher or student) and load ``weights`` if given.

    Raises:
        BadInputError: the model cannot be built, or its weights cannot be read, have a different
            SHA-256 digest or do not fit the model.
    """
    try:
        model = build_model(name, num_classes)
    except BadInputError as error:
        problems = [problem._replace(where=f"{role}.model") for problem in error.problems]
        raise BadInputError("spec", problems) from error
    if weights is not None:
        load_weights(model, name, weights, where=f"{role}.weights")
    return model


def check_image_sizes(
    role: str, name: str, model: nn.Module, num_classes: int, sizes: Iterable[int]
) -> None:
    """Check that ``model``, on the meta device, accepts square images of each size in pixels.

    Raises:
        BadInputError: the model fails at this size, or does not return logits [1, num_classes].
    """
    model.eval()
    for size in sorted(set(sizes)):
        try:
            with torch.no_grad():
                logits = model(torch.empty(1, 3, size, size, device="meta"))
            fits = isinstance(logits, torch.Tensor) and logits.shape == (1, num_classes)
            fault = "" if fits else f"it does not return logits [1, {num_classes}]"
        except (RuntimeError, AssertionError, ValueError) as error:
            fault = str(error).splitlines()[0]
        if fault:
            wrong = f"{name} cannot take images of {size} x {size} pixels ({fault})"
            remedy = "set augmentation.size and evaluation.crop_size to a size that it accepts"
            raise BadInputError("spec", [Problem(f"{role}.model", wrong, remedy)])


def num_parameters(model: nn.Module) -> int:
    """Number of scalars in the model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def build_on_meta_device(name: str, num_classes: int) -> nn.Module:
    """Build the model without allocating its weights.

    Raises:
        BadInputError: as ``build_model``.
    """
    try:
        with torch.device("meta"):
            return build_model(name, num_classes)
    except NotImplementedError:
        # RegNets compute their widths from tensor values, which the meta device does not have.
        return build_model(name, num_classes).to("meta")


def _build_timm_model(name: str, num_classes: int) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        problem = Problem(
            "model",
            f"is timm:{name}, but timm is not installed",
            "pip install 'dtkd-service[timm]'",
        )
        raise BadInputError("spec", [problem]) from error
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        remedy = f"use {', '.join(close)}" if close else "see timm.list_models()"
        raise BadInputError("spec", [Problem("model", f"timm has no model {name!r}", remedy)])
    return timm.create_model(name, pretrained=False, num_classes=num_classes)
