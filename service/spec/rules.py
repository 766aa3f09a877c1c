"""Rules about the sections of a spec that are valid each; those about files are in file_rules.py.

A rule's parameters are the sections that it needs, by name; one with a default need not be valid.
It yields every problem. None needs what a spec names, which may be on other machines.
"""

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping

from service.spec.augmentation_rules import check_augmentation, check_repeats
from service.spec.data_sections import Augmentation, Dataset
from service.spec.errors import Problem
from service.spec.fields import Section
from service.spec.loss_rules import (
    check_coupled_samples,
    check_label_smoothing,
    check_loss_settings,
    check_losses,
    check_unlabeled,
    check_views,
)
from service.spec.mlflow_rules import (
    alias_problem,
    experiment_problem,
    registered_model_problem,
    source_problem,
)
from service.spec.model_names import TIMM_PREFIX, model_name_problem
from service.spec.model_options import option_problems
from service.spec.networks import networks_of, required_num_classes, teacher_networks
from service.spec.optimization import AnyOptimizer, Schedule
from service.spec.paths import SQLITE, absolute_uri, output_problem, sqlite_path
from service.spec.sections import (
    Checkpoints,
    Evaluation,
    Resources,
    Student,
    Tracking,
    is_mlflow_source,
)
from service.spec.teacher_cache_rules import check_teacher_cache
from service.spec.teacher_classes import check_class_indices
from service.spec.teacher_sections import Teacher
from service.spec.tracked_checkpoints import tracked_checkpoints_problems
from service.spec.training_section import Training
from service.spec.unused_fields import (
    check_crop_kind,
    check_measured_images,
    check_resize_interval,
    check_schedule_kind,
    check_skipped_steps,
)
from service.spec.weights_metadata import weights_problems

LAYERED_MODELS = ("vit_", TIMM_PREFIX)
"""Starts of the names of the networks that optimizer.layer_decay is for."""
Rule = Callable[..., Iterator[Problem]]


def check_rules(rules: Iterable[Rule], sections: Mapping[str, Section | None]) -> Iterator[Problem]:
    """Every problem that the rules find; ``sections``: those that are valid, by name."""
    for rule in rules:
        parameters = inspect.signature(rule).parameters
        needed = {name for name, one in parameters.items() if one.default is one.empty}
        if needed <= sections.keys():
            yield from rule(**{name: sections[name] for name in parameters if name in sections})


def check_models(
    student: Student, teacher: Teacher | None, dataset: Dataset | None = None
) -> Iterator[Problem]:
    """Names and options on the allow-lists; class counts that agree."""
    for path, network in networks_of(student, teacher).items():
        if found := model_name_problem(network.model):
            yield Problem(f"{path}.model", *found)
        elif isinstance(network, Student):
            has_weights = network.weights is not None
            yield from option_problems(network.model, network.options, has_weights=has_weights)
    for path, member in teacher_networks(teacher).items():
        num_classes = member.num_classes
        if not dataset or member.classes is not None or num_classes in (None, dataset.num_classes):
            continue
        remedy = "use a teacher trained on the dataset's classes"
        if num_classes is not None and num_classes > dataset.num_classes:
            remedy += f', or set {path}.classes to "by_name": only the dataset\'s are then used'
        wrong = f"is {num_classes} but dataset.num_classes is {dataset.num_classes}"
        yield Problem(f"{path}.num_classes", wrong, remedy)


def check_mean(teacher: Teacher | None) -> Iterator[Problem]:
    """Settings of the mean of several teachers only where there are several."""
    if teacher is None or teacher.others:
        return
    for field, value in (("weight", 1.0), ("mean_of", "logits")):
        if getattr(teacher, field) != value:
            wrong = f"is {getattr(teacher, field)}, but the teacher is one network"
            yield Problem(f"teacher.{field}", wrong, "remove it, or add teacher.others")


def check_weights(
    student: Student, teacher: Teacher | None, dataset: Dataset | None = None
) -> Iterator[Problem]:
    """Addresses and settings of weights that fit the model and the dataset's classes."""
    for network_path, network in networks_of(student, teacher).items():
        if network.weights is None:
            continue
        weights, where = network.weights, f"{network_path}.weights"
        if is_mlflow_source(weights.source) and (found := source_problem(weights.source)):
            yield Problem(f"{where}.source", *found)
        num_classes = required_num_classes(network, dataset)
        yield from weights_problems(where, network.model, weights, num_classes)


def check_batches(training: Training, resources: Resources) -> Iterator[Problem]:
    """A global batch is cut into micro-batches, of which every worker has at least one."""
    batch, workers, micro = _batches(training, resources)
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


def _batches(training: Training, resources: Resources) -> tuple[int, int, int | None]:
    """Images of a step, workers, and images of a forward pass where the spec says so."""
    return training.global_batch_size, resources.max_workers, training.micro_batch_size


def check_schedule(schedule: Schedule) -> Iterator[Problem]:
    """Milestones in order and within the training; warm-up shorter than it."""
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
    if schedule.kind == "one_cycle" and schedule.warmup_epochs > 0:
        yield Problem(
            "schedule.warmup_epochs",
            f"is {schedule.warmup_epochs:g}, but one_cycle rises by itself",
            "remove it, or set schedule.rise_fraction",
        )
    if schedule.warmup_epochs >= schedule.num_epochs:
        yield Problem(
            "schedule.warmup_epochs",
            f"is {schedule.warmup_epochs:g} of {schedule.num_epochs} epochs",
            "make it shorter than the training",
        )


def check_optimizer(optimizer: AnyOptimizer, student: Student | None = None) -> Iterator[Problem]:
    """Nesterov's momentum needs momentum; blocks whose rates may differ."""
    if optimizer.kind in ("sgd", "lars") and optimizer.nesterov and optimizer.momentum == 0:
        yield Problem("optimizer.nesterov", "is on with momentum 0", "set momentum, such as 0.9")
    if optimizer.layer_decay < 1 and student and not student.model.startswith(LAYERED_MODELS):
        yield Problem(
            "optimizer.layer_decay",
            f"is set, but the blocks of {student.model} are not known",
            "use a vit_* of torchvision or a network of timm, or remove it",
        )


def check_mixing(
    augmentation: Augmentation, training: Training, resources: Resources
) -> Iterator[Problem]:
    """Pairs lie within a micro-batch, so micro-batches must be even."""
    if augmentation.mixing is None or any(check_batches(training, resources)):
        return
    batch, workers, micro = _batches(training, resources)
    num_images = batch // workers if micro is None else micro
    if num_images % 2:
        yield Problem(
            "augmentation.mixing",
            f"mixes pairs, but a forward pass has {num_images} images",
            "set an even training.micro_batch_size",
        )


def check_evaluation(evaluation: Evaluation) -> Iterator[Problem]:
    """A crop that fits in what it is cut from."""
    if evaluation.crop_size > evaluation.resize_size:
        yield Problem(
            "evaluation.crop_size",
            f"is {evaluation.crop_size}, more than resize_size = {evaluation.resize_size}",
            "make resize_size at least crop_size",
        )


def check_storage(checkpoints: Checkpoints) -> Iterator[Problem]:
    """A storage path that Ray does not remove."""
    if problem := output_problem("checkpoints.storage_path", checkpoints.storage_path):
        yield problem


def check_tracking(tracking: Tracking) -> Iterator[Problem]:
    """A promotion needs a registered model; names and addresses that MLflow accepts."""
    promote = tracking.promote
    for field, name, find_problem in (
        ("experiment", tracking.experiment, experiment_problem),
        ("register_as", tracking.register_as, registered_model_problem),
        ("promote.alias", promote.alias if promote else None, alias_problem),
    ):
        if name is not None and (found := find_problem(name)):
            yield Problem(f"tracking.{field}", *found)
    if promote and tracking.register_as is None:
        yield Problem(
            "tracking.promote",
            "is set but register_as is not",
            "name the registered model in register_as",
        )
    uri = tracking.uri
    if uri is not None and not uri.startswith(("http://", "https://", SQLITE)):
        yield Problem(
            "tracking.uri", f"is {uri!r}", "give http(s)://host:port or sqlite:///path/mlflow.db"
        )
    uris = {"tracking.uri": uri, "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI")}
    for where, location in uris.items():
        path = sqlite_path(absolute_uri(location)) if location is not None else None
        if path is not None and (problem := output_problem(where, path)):
            yield problem


def check_tracked_checkpoints(
    tracking: Tracking, schedule: Schedule, evaluation: Evaluation, dataset: Dataset | None = None
) -> Iterator[Problem]:
    """Checkpoints that are logged at some time; runs with held-out images log none."""
    tracked = tracking.tracked_checkpoints
    if tracked is not None and (dataset is None or dataset.held_out is None):
        num_evaluations = -(-schedule.num_epochs // evaluation.every_epochs)
        yield from tracked_checkpoints_problems(tracked, num_evaluations)


def check_cache(dataset: Dataset) -> Iterator[Problem]:
    """A cache that Ray does not remove."""
    cache = dataset.cache
    if cache and (problem := output_problem("dataset.cache.path", cache.path)):
        yield problem


FIELD_RULES: tuple[Rule, ...] = (
    *(check_models, check_mean, check_weights, check_class_indices),
    *(check_batches, check_schedule, check_optimizer),
    *(check_losses, check_unlabeled, check_coupled_samples, check_label_smoothing, check_views),
    check_loss_settings,
    *(check_augmentation, check_repeats, check_mixing, check_evaluation, check_storage),
    *(check_tracking, check_tracked_checkpoints, check_cache, check_teacher_cache),
    *(check_schedule_kind, check_crop_kind, check_skipped_steps, check_resize_interval),
    check_measured_images,
)
