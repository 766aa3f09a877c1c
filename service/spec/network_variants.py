"""What torchvision's networks are beyond their names, as the weights tell.

torchvision adapts a network, or the names in a file, while it loads weights (densenet.py,
googlenet.py, inception.py, mnasnet.py, vision_transformer.py in torchvision.models). Here the
same follows from a file's names, shapes and metadata, so that it also holds for files that lost
what torchvision looks at.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from service.spec.model_names import AUXILIARY_HEADS
from service.spec.tensor_info import TensorInfo

TRANSFORM_KEY = "transform_input"
"""Of the metadata of a safetensors file: true or false, as JSON."""

# Names of tensors in old files, from before torch split module names at dots.
OLD_DENSE_LAYER = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")
OLD_VIT_LAYER = re.compile(r"(.*\.mlp)\.linear_([12])(\..*)")
NEW_VIT_LAYERS = {"1": ".0", "2": ".3"}
FIRST_MNASNET_STEM = 32
VIT_IMAGE_SIZE = 224


class Variant(NamedTuple):
    """``transform_input``: GoogLeNet and Inception v3 convert ImageNet's normalization of their
    images to (x - 0.5) / 0.5, with which they were trained. ``image_size``: the side in pixels that
    a ViT's position embedding is for; None: torchvision's default. ``has_first_stem``: MNASNet's
    stem of its first version, which is not scaled.
    """

    transform_input: bool = False
    image_size: int | None = None
    has_first_stem: bool = False


USUAL_VARIANT = Variant()
"""What torchvision builds by a name alone."""


def current_name(model: str, name: str) -> str:
    """The name that a network's tensor has today, by that in a file."""
    if model.startswith("densenet") and (found := OLD_DENSE_LAYER.fullmatch(name)):
        return f"{found[1]}{found[2]}"
    if model.startswith("vit_") and (found := OLD_VIT_LAYER.fullmatch(name)):
        return f"{found[1]}{NEW_VIT_LAYERS[found[2]]}{found[3]}"
    return name


def is_auxiliary(model: str, name: str) -> bool:
    """Whether a tensor is of a head that is only used in the training of its network."""
    return name.split(".")[0] in AUXILIARY_HEADS.get(model, ())


def variant_of(
    model: str, tensors: Mapping[str, TensorInfo], *, transform_input: bool = False
) -> Variant:
    """The variant of a network of torchvision with these tensors, by their names today."""
    if model.startswith("vit_") and "encoder.pos_embedding" in tensors:
        patch_size = int(model.rpartition("_")[2])
        shape = tensors["encoder.pos_embedding"].shape
        side = math.isqrt(shape[1] - 1) * patch_size if len(shape) == 3 and shape[1] > 1 else 0
        return Variant(image_size=side if side not in (0, VIT_IMAGE_SIZE) else None)
    if model.startswith("mnasnet") and model != "mnasnet1_0" and "layers.0.weight" in tensors:
        first_size = tensors["layers.0.weight"].shape[:1]
        return Variant(has_first_stem=first_size == (FIRST_MNASNET_STEM,))
    return Variant(transform_input=transform_input and model in AUXILIARY_HEADS)
