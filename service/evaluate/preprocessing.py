"""How a model's images are prepared: as its options, its card, or its publisher say."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from service.evaluate.options import MAX_SIZE, MIN_SIZE, ModelOptions
from service.spec.data_sections import Normalization
from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.model_names import TIMM_PREFIX, TORCHVISION_MODELS
from service.spec.published_weights import NUM_CLASSES
from service.spec.weights_metadata import TORCHVISION

BILINEAR = "bilinear"


class Preprocessing(NamedTuple):
    """How an image becomes a network's input; sizes in pixels.

    The shorter side is resized, bilinear with antialias, and the central square is cut.
    """

    resize_size: int
    crop_size: int
    normalization: Normalization


class Stated(NamedTuple):
    """What a model says about its images; ``origin``: where. ``interpolation``: its own."""

    preprocessing: Preprocessing
    origin: str
    interpolation: str = BILINEAR


def with_options(stated: Stated | None, options: ModelOptions, source: str) -> Stated:
    """The preprocessing of a model; options replace what it states itself.

    Raises:
        BadInputError: an option is missing for a model that states nothing, or the crop is larger
            than the image.
    """
    given = {name: getattr(options, name) for name in ("resize", "crop", "mean", "std")}
    given = {name: value for name, value in given.items() if value is not None}
    values, origin, interpolation = given, "options", BILINEAR
    if stated is not None:
        resize, crop, normalization = stated.preprocessing
        own = {"resize": resize, "crop": crop, **normalization.model_dump()}
        values, interpolation = {**own, **given}, stated.interpolation
        origin = stated.origin
        if given:
            origin += " but for " + ", ".join(map(options.where, given))
    wrong = f"is absent, and {source} does not say how its images are prepared"
    remedies = {
        "resize": "give the pixels that the shorter side is resized to",
        "crop": "give the side of the center crop in pixels",
        "mean": "give three numbers from 0 to 1",
        "std": "give three numbers from 0 to 1",
    }
    problems = [
        Problem(options.where(name), wrong, remedy)
        for name, remedy in remedies.items()
        if name not in values
    ]
    if not problems and values["crop"] > values["resize"]:
        wrong = f"is {values['crop']}, more than {options.where('resize')}, {values['resize']}"
        problems.append(Problem(options.where("crop"), wrong, "make it no more than that"))
    if problems:
        raise BadInputError("arguments", problems)
    normalization = Normalization(mean=tuple(values["mean"]), std=tuple(values["std"]))
    preprocessing = Preprocessing(values["resize"], values["crop"], normalization)
    return Stated(preprocessing, origin, interpolation)


def of_card(card: Mapping[str, Any]) -> Stated | None:
    """What a student's file says; None where it says nothing usable."""
    try:
        resize, crop = (json.loads(card[name]) for name in ("resize_shorter_side", "center_crop"))
        mean, std = (tuple(json.loads(card[name])) for name in ("mean", "std"))
        normalization = Normalization(mean=mean, std=std)
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if not all(type(size) is int and MIN_SIZE <= size <= MAX_SIZE for size in (resize, crop)):
        return None
    preprocessing = Preprocessing(resize, crop, normalization)
    return Stated(preprocessing, "the student's card", str(card.get("interpolation", BILINEAR)))


def of_run(spec: JobSpec) -> Stated:
    """As a run evaluates its student."""
    evaluation, normalization = spec.evaluation, spec.dataset.normalization
    preprocessing = Preprocessing(evaluation.resize_size, evaluation.crop_size, normalization)
    return Stated(preprocessing, "the run's spec")


def published(architecture: str, num_classes: int, weights: str, sha256: str) -> Stated | None:
    """What torchvision or timm publish for a network of as many classes as theirs, if they do.

    ``weights``: their source; ``sha256``: the digest of their file.
    """
    if architecture.startswith(TIMM_PREFIX):
        return _of_timm(architecture.removeprefix(TIMM_PREFIX), num_classes)
    if architecture in TORCHVISION_MODELS and num_classes == NUM_CLASSES:
        return _of_torchvision(architecture, weights, sha256)
    return None


def _of_torchvision(architecture: str, source: str, sha256: str) -> Stated:
    """Of the weights themselves; of those that torchvision does not publish, of its default."""
    # Imported here: it imports torch, which an error about a path need not wait for.
    from torchvision.models import get_model_weights

    weights = get_model_weights(architecture)
    enum = weights.DEFAULT
    if source.startswith(TORCHVISION):
        enum = weights[source.removeprefix(TORCHVISION)]
    else:
        # The names of the files end with the beginning of their digests.
        digests = {each.url.rpartition("-")[2].partition(".")[0]: each for each in weights}
        enum = digests.get(sha256[:8], enum)
    transform = enum.transforms()
    normalization = Normalization(mean=tuple(transform.mean), std=tuple(transform.std))
    preprocessing = Preprocessing(transform.resize_size[0], transform.crop_size[0], normalization)
    return Stated(preprocessing, f"torchvision's {enum.name}", transform.interpolation.value)


def _of_timm(name: str, num_classes: int) -> Stated | None:
    """At the size at which timm evaluates it."""
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    published_config = get_pretrained_cfg(name)
    if published_config is None or published_config.num_classes != num_classes:
        return None
    config = resolve_data_config(pretrained_cfg=published_config.to_dict(), use_test_size=True)
    crop_size = config["input_size"][1]
    normalization = Normalization(mean=tuple(config["mean"]), std=tuple(config["std"]))
    # As timm's transforms_imagenet_eval.
    resize_size = math.floor(crop_size / config["crop_pct"])
    preprocessing = Preprocessing(resize_size, crop_size, normalization)
    return Stated(preprocessing, "timm's configuration", config["interpolation"])
