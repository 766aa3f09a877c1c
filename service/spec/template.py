"""Writes a first spec for a user's own data: valid, complete, with the recipe's defaults."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.facts import DatasetFacts, dataset_facts
from data_pipeline.files import is_remote
from service.spec.data_sections import Dataset
from service.spec.errors import BadInputError, Problem
from service.spec.fields import IMAGENET_MEAN, IMAGENET_STD
from service.spec.job import JobSpec
from service.spec.loading import parse_spec
from service.spec.model_names import TIMM_PREFIX
from service.spec.optimization import Sgd
from service.spec.paths import absolute_path, path_remedy
from service.spec.published_weights import NUM_CLASSES
from service.spec.secrets import secret_problems
from service.spec.sections import Resources, Weights, is_file_source
from service.spec.teacher_classes import known_classes, resolved
from service.spec.teacher_sections import TeacherNetwork
from service.spec.tensor_info import UnreadableWeightsError
from service.spec.training_section import Training
from service.spec.weights_metadata import TORCHVISION

# Images of one size up to this are padded and cropped, as the CIFAR recipe does.
MAX_SMALL_SIDE = 64
FULL_SIDE, RESIZE_RATIO = 224, 256 / 224
MICRO_BATCH_SIZE = 64


class Choices(NamedTuple):
    """What the user chooses; paths as given. ``weights``: of the teacher, None without one."""

    train: str
    val: str
    student: str
    teacher: str | None
    weights: str | None
    storage_path: Path
    name: str | None = None


def new_spec(choices: Choices) -> JobSpec:
    """A spec with the classes, normalization and sizes of the datasets.

    Raises:
        BadInputError: files that cannot be read, or models and weights that do not fit.
    """
    facts = facts_of({"--train": choices.train, "--val": choices.val, "--weights": choices.weights})
    # Of the classes, and of what the teacher was trained on, images without labels say nothing.
    labeled = facts_of({"--val": choices.val}) if facts.is_unlabeled else facts
    content: dict[str, Any] = {
        "name": choices.name or _default_name(choices),
        "dataset": {
            "train": choices.train,
            "val": choices.val,
            "num_classes": num_classes_of(labeled),
            **({"unlabeled": True} if facts.is_unlabeled else {}),
            **({"normalization": labeled.normalization} if labeled.normalization else {}),
        },
        "student": {"model": choices.student},
        **_image_sections(facts),
        **_batch_sections(facts.num_images),
        "resources": {"cpus_per_worker": cpus_per_worker()},
        "checkpoints": {"storage_path": str(absolute_path(choices.storage_path))},
    }
    if choices.teacher is not None:
        dataset = Dataset.model_validate(content["dataset"])
        weights = choices.weights or ""
        content["teacher"] = _teacher(choices.teacher, weights, dataset, labeled.classes)
    return parse_spec(content)


def format_spec(spec: JobSpec) -> str:
    """JSON text with every field that has a value of its own; lists are on one line."""
    content = spec.model_dump(mode="json", exclude_none=True)
    if spec.schedule.has_default_milestones:
        # Left out, they follow num_epochs when a user changes it.
        del content["schedule"]["milestones"]
    if spec.teacher is not None:
        losses = spec.effective_losses()
        content["losses"] = losses.model_dump(mode="json", exclude_none=True)
    order = [name for name in JobSpec.model_fields if name in content]
    lines = [f"  {json.dumps(name)}: {_format(content[name], 2)}" for name in order]
    return "{\n" + ",\n".join(lines) + "\n}"


def _format(value: Any, indent: int) -> str:  # noqa: ANN401 - any JSON value
    if not isinstance(value, dict) or not value:
        return json.dumps(value)
    pad = " " * (indent + 2)
    lines = [
        f"{pad}{json.dumps(key)}: {_format(inner, indent + 2)}" for key, inner in value.items()
    ]
    return "{\n" + ",\n".join(lines) + f"\n{' ' * indent}}}"


def facts_of(options: Mapping[str, str | None]) -> DatasetFacts:
    """What the dataset of the first option contains; ``options``: all that name files.

    Raises:
        BadInputError: it cannot be read, or an option has a secret.
    """
    if problems := list(secret_problems(options)):
        raise BadInputError("arguments", problems)
    option, location = next(iter(options.items()))
    location = location or ""
    if not is_remote(location) and not absolute_path(location).exists():
        wrong = f"{absolute_path(location)} does not exist"
        remedy = path_remedy(location, "the path of a .beton file")
        raise BadInputError("arguments", [Problem(option, wrong, remedy)])
    try:
        return dataset_facts(location if is_remote(location) else str(absolute_path(location)))
    except ValueError as error:
        wrong, _, remedy = str(error).rpartition("; ")
        raise BadInputError("arguments", [Problem(option, wrong, remedy)]) from error


def _default_name(choices: Choices) -> str:
    """Such as resnet18-from-resnet34."""
    models = [choices.student, *([choices.teacher] if choices.teacher else [])]
    return "-from-".join(name.rpartition(":")[2] for name in models)


def num_classes_of(facts: DatasetFacts) -> int:
    """As many as the manifest names, or the labels need."""
    return len(facts.classes) if facts.classes is not None else facts.highest_label + 1


def _image_sections(facts: DatasetFacts) -> dict[str, Any]:
    """Crops that fit the images: CIFAR's for small images of one size, otherwise ImageNet's."""
    side = facts.min_side
    if facts.min_side == facts.max_side <= MAX_SMALL_SIDE:
        return {
            "augmentation": {"crop": "pad_and_crop", "size": side, "padding": max(1, side // 8)},
            "evaluation": {"resize_size": side, "crop_size": side},
        }
    size = min(FULL_SIDE, facts.typical_short_side // 32 * 32 or facts.typical_short_side)
    return {
        "augmentation": {"size": size},
        "evaluation": {"resize_size": round(size * RESIZE_RATIO), "crop_size": size},
    }


def _batch_sections(num_images: int) -> dict[str, Any]:
    """The recipe's batch size, halved until an epoch has ten steps; the learning rate likewise."""
    recipe, rate = Training().global_batch_size, Sgd().learning_rate
    batch_size = recipe
    while batch_size > 1 and batch_size * 10 > num_images:
        batch_size //= 2
    return {
        "training": {
            "global_batch_size": batch_size,
            "micro_batch_size": min(MICRO_BATCH_SIZE, batch_size),
        },
        "optimizer": {"kind": "sgd", "learning_rate": rate * batch_size / recipe},
    }


def cpus_per_worker() -> int:
    """The default, or all CPU cores of this machine that this process may use if they are fewer."""
    return min(Resources().cpus_per_worker, len(os.sched_getaffinity(0)))


def _teacher(
    model: str, weights: str, dataset: Dataset, data_classes: tuple[str, ...] | None
) -> dict[str, Any]:
    """Published torchvision weights have ImageNet's normalization and classes."""
    teacher: dict[str, Any] = {"model": model, "weights": {"source": weights}}
    if weights.startswith(TORCHVISION):
        teacher["normalization"] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        if dataset.num_classes != NUM_CLASSES:
            teacher["classes"] = "by_name"
    elif is_file_source(weights):
        teacher |= _more_classes(model, weights, dataset, data_classes)
    return teacher


def _more_classes(
    model: str, weights: str, dataset: Dataset, data_classes: tuple[str, ...] | None
) -> dict[str, Any]:
    """What a file needs that has a classifier of the dataset's classes, by name, and of others."""
    sources = [Weights(source=str(absolute_path(weights)))]
    if model.startswith(TIMM_PREFIX):
        # The published weights of some networks have the names of another code base.
        sources.append(sources[0].model_copy(update={"match": "order"}))
    for source in sources:
        network = TeacherNetwork(model=model, weights=source, classes="by_name")
        # Without them, what is wrong with the file is said where the spec is checked.
        with contextlib.suppress(UnreadableWeightsError, BadInputError):
            known = known_classes(network)
            if dataset.num_classes in known.sizes:
                break
            resolved("teacher", network, known, dataset, data_classes)
            changed = source.model_dump(mode="json", exclude_defaults=True)
            return {"weights": {**changed, "source": weights}, "classes": "by_name"}
    return {}
