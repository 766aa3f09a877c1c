"""The weights that torchvision publishes for each of its classifiers, known without torch.

tests/unit/spec/test_published_weights.py compares them with torchvision's own.
"""

from collections.abc import Iterator
from pathlib import Path

from data_pipeline.files import sha256_of
from service.spec.errors import Problem
from service.spec.model_names import TORCHVISION_MODELS, words
from service.spec.sections import Weights

NUM_CLASSES = 1000
"""ImageNet's, of all of them."""

SWAG_ONLY = ("regnet_y_128gf", "vit_h_14")
WITH_SWAG = (*SWAG_ONLY, "regnet_y_16gf", "regnet_y_32gf", "vit_b_16", "vit_l_16")
WITH_V2 = frozenset(
    words("""
efficientnet_b1 mobilenet_v2 mobilenet_v3_large regnet_x_16gf regnet_x_1_6gf regnet_x_32gf
regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_16gf regnet_y_1_6gf
regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101 resnet152
resnet50 resnext101_32x8d resnext50_32x4d wide_resnet101_2 wide_resnet50_2
""")
)
SWAG_IMAGE_SIZES = {"vit_b_16": 384, "vit_l_16": 512, "vit_h_14": 518}
"""Sides in pixels that weights with E2E in their name are for, where networks have a fixed one."""

TRANSFORMED_INPUT = {"googlenet": "1378be20", "inception_v3": "0cc3c7bd"}
"""Networks whose published weights need transform_input; how the file's SHA-256 begins."""


def enums_of(model: str) -> list[str]:
    """The names of a model's published weights, without those of vgg16 that lack a classifier."""
    if model not in TORCHVISION_MODELS:
        return []
    names = [] if model in SWAG_ONLY else ["IMAGENET1K_V1"]
    names += ["IMAGENET1K_V2"] if model in WITH_V2 else []
    if model in WITH_SWAG:
        names += ["IMAGENET1K_SWAG_E2E_V1", "IMAGENET1K_SWAG_LINEAR_V1"]
    return [*names, "DEFAULT"]


def published_image_size(model: str, enum: str) -> int | None:
    """The side in pixels that a network with these weights takes, if it is not the usual one."""
    is_swag = "SWAG_E2E" in enum or (enum == "DEFAULT" and model in SWAG_ONLY)
    return SWAG_IMAGE_SIZES.get(model) if is_swag else None


def is_published_with_transform(model: str, path: Path) -> bool:
    """Whether a file is the published one of a network whose input is transformed."""
    begin = TRANSFORMED_INPUT.get(model)
    return begin is not None and sha256_of(path).startswith(begin)


def published_problems(
    where: str, model: str, weights: Weights, num_classes: int | None
) -> Iterator[Problem]:
    """What is wrong with weights of torchvision for a model; ``where``: path of the weights."""
    enum, enums = weights.source.removeprefix("torchvision:"), enums_of(model)
    if not enums:
        wrong = f"is {weights.source!r} for {model}"
        yield Problem(f"{where}.source", wrong, "torchvision has no such model")
    elif enum not in enums:
        wrong = f"is {weights.source!r}, but {model} has no weights {enum}"
        remedy = f"use {' or '.join(f'torchvision:{name}' for name in enums)}"
        yield Problem(f"{where}.source", wrong, remedy)
    elif num_classes is not None and num_classes != NUM_CLASSES:
        yield class_count_problem(where, weights.source, NUM_CLASSES, num_classes)


def class_count_problem(where: str, source: str, found: int, num_classes: int) -> Problem:
    """Weights of a classifier of another number of classes than the dataset has.

    ``where``: path of the weights in the spec.
    """
    remedy = f"dataset.num_classes is {num_classes}: the two must agree"
    network = where.removesuffix(".weights")
    if network.startswith("teacher") and found > num_classes:
        remedy += f', or set {network}.classes to "by_name": only the dataset\'s are then used'
    return Problem(f"{where}.source", f"{source} has a classifier for {found} classes", remedy)
