"""Builds models by name, with random weights or with the weights that a spec names."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from service.models.cifar import build_cifar_model
from service.models.mobilenet import MobileNetV1
from service.models.weights import check_finite, check_shapes, fill, find_weights, read_weights
from service.spec.errors import BadInputError, Problem
from service.spec.model_names import AUXILIARY_HEADS, CIFAR_PREFIX, IMAGENET_PREFIX, TIMM_PREFIX
from service.spec.model_options import TAKEN_BY, OptionValues, not_taken
from service.spec.network_variants import USUAL_VARIANT, Variant
from service.spec.sections import Weights

IMAGENET_NETWORKS = {"mobilenet_v1": MobileNetV1}
"""Those of ``service.spec.model_names.IMAGENET_MODELS``: torchvision lacks them."""
NO_OPTIONS: OptionValues = MappingProxyType({})


def build_model(
    name: str,
    num_classes: int,
    variant: Variant = USUAL_VARIANT,
    options: OptionValues = NO_OPTIONS,
) -> nn.Module:
    """Build a classifier with random weights: images [B, 3, H, W] to logits [B, num_classes].

    ``variant``: of networks of torchvision. ``options``: those of ``ModelOptions``, for training.

    Raises:
        BadInputError: timm is not installed, or does not have this model or its options.
    """
    if name.startswith(CIFAR_PREFIX):
        return build_cifar_model(name.removeprefix(CIFAR_PREFIX), num_classes)
    if name.startswith(IMAGENET_PREFIX):
        return IMAGENET_NETWORKS[name.removeprefix(IMAGENET_PREFIX)](num_classes)
    if name.startswith(TIMM_PREFIX):
        return _build_timm_model(name.removeprefix(TIMM_PREFIX), num_classes, options)
    return _build_torchvision_model(name, num_classes, variant, options)


def build_with_weights(
    role: str,
    name: str,
    num_classes: int,
    weights: Weights | None,
    log: Callable[[str], None] = lambda _: None,
    options: OptionValues = NO_OPTIONS,
) -> nn.Module:
    """Build the model of ``role`` (student, teacher, teacher.others.0) and load ``weights``.

    ``options``: as in ``build_model``. ``log`` gets a line where the file has several weights, or
    more than the network's.

    Raises:
        BadInputError: the model cannot be built, or its weights cannot be read, have a different
            SHA-256 digest, do not fit the model or are not finite.
    """
    try:
        if weights is None:
            return build_model(name, num_classes, options=options)
        expected = build_on_meta_device(name, num_classes).state_dict()
    except BadInputError as error:
        problems = [
            problem._replace(where=f"{role}.model") if problem.where == "model" else problem
            for problem in error.problems
        ]
        raise BadInputError("spec", problems) from error
    found = find_weights(role, name, weights, expected)
    for note in found.notes:
        log(note)
    model = build_model(name, num_classes, found.variant, options)
    values = read_weights(found, model.state_dict())
    check_finite(found, values)
    fill(model, values)
    return model


def check_fit(role: str, name: str, num_classes: int, weights: Weights) -> tuple[str, ...]:
    """Check that a file's tensors have the network's names and shapes; their values are not read.

    Returns what is to be said about the file.

    Raises:
        BadInputError: they do not fit, or the file has a different SHA-256 digest.
    """
    found = find_weights(role, name, weights, build_on_meta_device(name, num_classes).state_dict())
    check_shapes(found, build_on_meta_device(name, num_classes, found.variant).state_dict())
    return found.notes


def load_network(path: Path, name: str, num_classes: int) -> nn.Module:
    """The network of a safetensors file that this service wrote, in evaluation mode.

    Raises:
        BadInputError: it is another network.
    """
    expected = build_on_meta_device(name, num_classes).state_dict()
    found = find_weights("student", name, Weights(source=str(path)), expected)
    model = build_model(name, num_classes, found.variant)
    fill(model, read_weights(found, model.state_dict()))
    return model.eval()


def check_image_sizes(
    role: str, name: str, model: nn.Module, num_classes: int, sizes: Iterable[int]
) -> None:
    """Check that ``model`` accepts square images of each size in pixels.

    It is one forward pass of a blank image each. On the meta device, which computes nothing, the
    first one imports torch's compiler, which takes longer than a pass of most networks.

    Raises:
        BadInputError: the model fails at this size, or does not return logits [1, num_classes].
    """
    model.eval()
    device = next(model.parameters()).device
    for size in sorted(set(sizes)):
        try:
            with torch.no_grad():
                logits = model(torch.zeros(1, 3, size, size, device=device))
            fits = isinstance(logits, torch.Tensor) and logits.shape == (1, num_classes)
            fault = "" if fits else f"it does not return logits [1, {num_classes}]"
        except (RuntimeError, AssertionError, ValueError) as error:
            fault = str(error).splitlines()[0]
        if fault:
            wrong = f"{name} cannot take images of {size} x {size} pixels ({fault})"
            remedy = "set augmentation.size and evaluation.crop_size to a size that it accepts"
            if role != "student":
                remedy = f"set {role}.size to a size that it accepts"
            raise BadInputError("spec", [Problem(f"{role}.model", wrong, remedy)])


def num_parameters(model: nn.Module) -> int:
    """Number of scalars in the model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def build_on_meta_device(
    name: str,
    num_classes: int,
    variant: Variant = USUAL_VARIANT,
    options: OptionValues = NO_OPTIONS,
) -> nn.Module:
    """Build the model without allocating its weights.

    Raises:
        BadInputError: as ``build_model``.
    """
    with _ParametersOnMeta():
        return build_model(name, num_classes, variant, options).to("meta")


# In-place functions that layers initialize their parameters with.
_DRAWING = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_)


class _ParametersOnMeta(TorchFunctionMode):
    """Makes torch.empty, by which layers allocate their parameters, allocate nothing.

    Not torch.device("meta"): RegNets and others compute their widths from tensor values. Nothing is
    drawn either: on the meta device that would only import torch's compiler, for a second.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - what torch's functions return
        if func in _DRAWING and args[0].is_meta:
            return args[0]
        on_meta = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **on_meta})


def _build_torchvision_model(
    name: str, num_classes: int, variant: Variant, wanted: OptionValues
) -> nn.Module:
    import torchvision.models

    options: dict[str, Any] = {**wanted}
    if name in AUXILIARY_HEADS:
        options |= {"aux_logits": False, "init_weights": True}
        options["transform_input"] = variant.transform_input
    if variant.image_size is not None:
        options["image_size"] = variant.image_size
    model = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    if variant.has_first_stem:
        # The model itself replaces its stem when it is given weights of that version.
        versioned = type(model.state_dict())()
        versioned._metadata = {"": {"version": 1}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.load_state_dict(versioned, strict=False)
    return model


def _build_timm_model(name: str, num_classes: int, options: OptionValues) -> nn.Module:
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
    try:
        return timm.create_model(name, pretrained=False, num_classes=num_classes, **options)
    except TypeError as error:
        refused = [option for option, value in options.items() if not _takes(name, option, value)]
        if not refused:
            raise
        known = [option for option, models in TAKEN_BY.items() if TIMM_PREFIX in models]
        taken = [option for option in known if _takes(name, option, 0)]
        problems = [not_taken(option, f"{TIMM_PREFIX}{name}", taken) for option in refused]
        raise BadInputError("spec", problems) from error


def _takes(name: str, option: str, value: float) -> bool:
    """Whether a network of timm can be built with an option."""
    import timm

    try:
        with _ParametersOnMeta():
            timm.create_model(name, pretrained=False, **{option: value})
    except TypeError:
        return False
    return True
