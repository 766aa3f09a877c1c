"""Rules that involve several sections of a spec, or the files that it names.

Each rule gets a spec whose required sections are valid, and yields every problem.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from service.spec.errors import Problem
from service.spec.job import JobSpec
from service.spec.mlflow_rules import (
    alias_problem,
    experiment_problem,
    registered_model_problem,
    source_problem,
)
from service.spec.model_names import model_name_problem
from service.spec.paths import SQLITE, absolute_uri, output_problem, sqlite_path
from service.spec.sections import is_file_source, is_mlflow_source
from service.spec.weights_metadata import weights_problems

SOURCES = "give the path of a weights file, models:/NAME@ALIAS, runs:/ID/PATH or torchvision:ENUM"
Rule = Callable[[JobSpec], Iterator[Problem]]


def check_models(spec: JobSpec) -> Iterator[Problem]:
    """Names on the allow-list; class counts that agree."""
    for role, model in (("student", spec.student), ("teacher", spec.teacher)):
        if model and (found := model_name_problem(model.model)):
            yield Problem(f"{role}.model", *found)
    dataset = getattr(spec, "dataset", None)
    if not dataset or not spec.teacher or spec.teacher.num_classes is None:
        return
    if spec.teacher.num_classes != dataset.num_classes:
        yield Problem(
            "teacher.num_classes",
            f"is {spec.teacher.num_classes} but dataset.num_classes is {dataset.num_classes}",
            "use a teacher trained on the dataset's classes",
        )


def check_weights(spec: JobSpec) -> Iterator[Problem]:
    """Weights that exist, for the model and the dataset's classes."""
    dataset = getattr(spec, "dataset", None)
    for role, model in (("student", spec.student), ("teacher", spec.teacher)):
        if model is None or model.weights is None:
            continue
        weights, where = model.weights, f"{role}.weights"
        if is_mlflow_source(weights.source) and (found := source_problem(weights.source)):
            yield Problem(f"{where}.source", *found)
        path = Path(weights.source)
        if is_file_source(weights.source) and not path.exists():
            yield Problem(f"{where}.source", f"{path} does not exist", SOURCES)
        else:
            num_classes = dataset.num_classes if dataset else None
            yield from weights_problems(where, model.model, weights, num_classes)


def check_method(spec: JobSpec) -> Iterator[Problem]:
    """Loss weights that train something, and a teacher where they need one."""
    method = spec.method
    if method is None:
        return
    if spec.teacher is None and (method.alpha > 0 or method.beta > 0):
        yield Problem(
            "method",
            "weighs distillation losses without a teacher",
            "add teacher, or leave method out",
        )
    if method.alpha == method.beta == method.gamma == 0:
        yield Problem(
            "method", "alpha, beta and gamma are all 0", "give at least one a positive weight"
        )


def check_batches(spec: JobSpec) -> Iterator[Problem]:
    """A global batch is cut into micro-batches, of which every worker has at least one."""
    batch, resources = spec.training.global_batch_size, spec.resources
    workers, micro = resources.max_workers, spec.training.micro_batch_size
    if resources.min_workers > workers:
        yield Problem(
            "resources.num_workers",
            f"is [{resources.min_workers}, {workers}]",
            "give the smaller number first",
        )
    elif micro is None and resources.is_elastic:
        yield Problem(
            "training.micro_batch_size",
            "is not set, but resources.num_workers is a range",
            "set it: it is what stays the same when their number changes",
        )
    elif micro is None and batch % workers:
        yield Problem(
            "training.global_batch_size",
            f"is {batch}, not divisible by resources.num_workers = {workers}",
            f"use {max(1, batch // workers) * workers} or {(batch // workers + 1) * workers}, or "
            "set training.micro_batch_size",
        )
    elif micro is not None and batch % micro:
        yield Problem(
            "training.micro_batch_size",
            f"is {micro}, which does not divide training.global_batch_size = {batch}",
            f"use a divisor of {batch}",
        )
    elif micro is not None and batch // micro < workers:
        yield Problem(
            "resources.num_workers",
            f"is {workers}, but a step has {batch // micro} micro-batches",
            "request fewer workers, or make training.micro_batch_size smaller",
        )


def check_schedule(spec: JobSpec) -> Iterator[Problem]:
    """Milestones in order and within the training; warm-up shorter than it."""
    schedule = spec.schedule
    if schedule.kind == "multistep":
        milestones = list(schedule.milestones)
        if milestones != sorted(set(milestones)):
            yield Problem(
                "schedule.milestones",
                f"are {milestones}",
                "give them in ascending order, each once",
            )
        elif milestones and milestones[-1] >= schedule.num_epochs:
            yield Problem(
                "schedule.milestones",
                f"end at {milestones[-1]} but the training has {schedule.num_epochs} epochs",
                "scale the milestones with num_epochs, for example 30, 60 and 90 % of it",
            )
    if schedule.warmup_epochs >= schedule.num_epochs:
        yield Problem(
            "schedule.warmup_epochs",
            f"is {schedule.warmup_epochs:g} of {schedule.num_epochs} epochs",
            "make it shorter than the training",
        )


def check_optimizer(spec: JobSpec) -> Iterator[Problem]:
    """Nesterov's momentum needs momentum."""
    optimizer = spec.optimizer
    if optimizer.kind == "sgd" and optimizer.nesterov and optimizer.momentum == 0:
        yield Problem("optimizer.nesterov", "is on with momentum 0", "set momentum, such as 0.9")


def check_augmentation(spec: JobSpec) -> Iterator[Problem]:
    """Ranges in order; stages that can be reached; a mixture of something."""
    augmentation = spec.augmentation
    ranges = {"scale": augmentation.scale, "ratio": augmentation.ratio}
    if augmentation.erasing:
        ranges["erasing.scale"] = augmentation.erasing.scale
        ranges["erasing.ratio"] = augmentation.erasing.ratio
    for name, (low, high) in ranges.items():
        if low > high:
            yield Problem(f"augmentation.{name}", f"is ({low}, {high})", "give the smaller first")
    yield from _check_size_stages(spec)
    mixing = augmentation.mixing
    if mixing and mixing.mixup_alpha == mixing.cutmix_alpha == 0:
        yield Problem(
            "augmentation.mixing",
            "has mixup_alpha and cutmix_alpha 0",
            "give at least one, such as 0.2 or 1, or leave mixing out",
        )


def _check_size_stages(spec: JobSpec) -> Iterator[Problem]:
    stages = spec.augmentation.size_stages
    if stages and spec.augmentation.crop == "pad_and_crop":
        yield Problem(
            "augmentation.size_stages",
            "are given with crop pad_and_crop, whose size is the images' own",
            "use random_resized, or leave size_stages out",
        )
    epochs = [stage.from_epoch for stage in stages]
    if epochs != sorted(set(epochs)):
        yield Problem(
            "augmentation.size_stages",
            f"start at epochs {epochs}",
            "give them in ascending order, each once",
        )
    schedule = getattr(spec, "schedule", None)
    if epochs and schedule and epochs[-1] >= schedule.num_epochs:
        yield Problem(
            "augmentation.size_stages",
            f"start at epoch {epochs[-1]}, after the last of {schedule.num_epochs}",
            "start every stage before the training ends",
        )


def check_mixing(spec: JobSpec) -> Iterator[Problem]:
    """Pairs lie within a micro-batch, so micro-batches must be even."""
    if spec.augmentation.mixing is None or check_batches_fails(spec):
        return
    if spec.micro_batch_size % 2:
        yield Problem(
            "augmentation.mixing",
            f"mixes pairs, but a forward pass has {spec.micro_batch_size} images",
            "set an even training.micro_batch_size",
        )


def check_batches_fails(spec: JobSpec) -> bool:
    """Whether the batch sizes do not fit each other, so that other rules cannot be checked."""
    return any(True for _ in check_batches(spec))


def check_evaluation(spec: JobSpec) -> Iterator[Problem]:
    """A crop that fits in what it is cut from."""
    evaluation = spec.evaluation
    if evaluation.crop_size > evaluation.resize_size:
        yield Problem(
            "evaluation.crop_size",
            f"is {evaluation.crop_size}, more than resize_size = {evaluation.resize_size}",
            "make resize_size at least crop_size",
        )


def check_storage(spec: JobSpec) -> Iterator[Problem]:
    """A storage path that is, or can become, a folder."""
    path = spec.checkpoints.storage_path
    if problem := output_problem("checkpoints.storage_path", path):
        yield problem
    existing = next((parent for parent in (path, *path.parents) if parent.exists()), Path("/"))
    if not existing.is_dir():
        yield Problem("checkpoints.storage_path", f"{existing} is a file", "give a folder")
    elif not os.access(existing, os.W_OK):
        wrong = f"{existing} cannot be written"
        yield Problem("checkpoints.storage_path", wrong, "give a folder that you may write")


def check_tracking(spec: JobSpec) -> Iterator[Problem]:
    """An alias needs a registered model; names and addresses that MLflow accepts."""
    for field, find_problem in (
        ("experiment", experiment_problem),
        ("register_as", registered_model_problem),
        ("alias", alias_problem),
    ):
        name = getattr(spec.tracking, field)
        if name is not None and (found := find_problem(name)):
            yield Problem(f"tracking.{field}", *found)
    if spec.tracking.alias and not spec.tracking.register_as:
        yield Problem(
            "tracking.alias", "is set but register_as is not", "name the registered model"
        )
    uri = spec.tracking.uri
    if uri is not None and not uri.startswith(("http://", "https://", SQLITE)):
        yield Problem(
            "tracking.uri", f"is {uri!r}", "give http(s)://host:port or sqlite:///path/mlflow.db"
        )
    uris = {"tracking.uri": uri, "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI")}
    for where, location in uris.items():
        path = sqlite_path(absolute_uri(location)) if location is not None else None
        if path is not None and (problem := output_problem(where, path)):
            yield problem


def check_cache(spec: JobSpec) -> Iterator[Problem]:
    """A cache that Ray does not remove."""
    cache = spec.dataset.cache
    if cache and (problem := output_problem("dataset.cache.path", cache.path)):
        yield problem


RULES: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (("student", "teacher"), check_models),
    (("student", "teacher"), check_weights),
    (("method", "teacher"), check_method),
    (("training", "resources"), check_batches),
    (("schedule",), check_schedule),
    (("optimizer",), check_optimizer),
    (("augmentation",), check_augmentation),
    (("augmentation", "training", "resources"), check_mixing),
    (("evaluation",), check_evaluation),
    (("checkpoints",), check_storage),
    (("tracking",), check_tracking),
    (("dataset",), check_cache),
)
"""Every rule with the sections that it must find valid."""
