"""A model that a source names, with its network built: see ``locate`` for what a source is."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from torch import nn

from data_pipeline.files import sha256_of
from service.evaluate.locate import LocatedModel, locate_model, refuse
from service.evaluate.options import ModelOptions
from service.evaluate.preprocessing import Preprocessing, published, with_options
from service.evaluate.request import EvaluationFailedError
from service.models.build import build_with_weights, check_image_sizes
from service.models.published import published_file
from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.model_names import TIMM_PREFIX, TORCHVISION_MODELS
from service.spec.published_weights import NUM_CLASSES
from service.spec.sections import is_mlflow_source
from service.spec.teacher_classes import KnownClasses, known_classes
from service.spec.teacher_sections import TeacherNetwork
from service.spec.tensor_info import UnreadableWeightsError
from service.spec.weights_metadata import TORCHVISION

# The network's role in errors of the modules below; here, its fields are options.
ROLE = "model"


class ModelClasses(NamedTuple):
    """What is known of a model's classes before its weights are read; see ``FoundModel``."""

    origin: str
    num_classes: int
    classes: tuple[str, ...] | None
    class_names: tuple[str, ...] | None


CheckClasses = Callable[[ModelClasses], object]
"""Refuses a model whose classes are not the wanted ones, before its weights are downloaded."""


class FoundModel(NamedTuple):
    """A model and what is known about it.

    ``network``: normalized images [B, 3, H, W] to logits [B, num_classes]; in evaluation mode, in
    float32, on the CPU. ``classes``: names by label as its training data had them, and
    ``class_names`` for people; None if they are not known. ``origin``: for people. ``spec``: of a
    run's folder. ``run_id``, ``model_id``: its run and its logged model in MLflow, where known.
    ``interpolation``: with which it was published. ``preprocessing_origin``: what says how images
    are prepared. ``notes``: what is to be said about its file.
    """

    network: nn.Module
    architecture: str
    num_classes: int
    classes: tuple[str, ...] | None
    class_names: tuple[str, ...] | None
    preprocessing: Preprocessing
    origin: str
    weights_sha256: str
    spec: JobSpec | None
    run_id: str | None
    model_id: str | None
    interpolation: str
    preprocessing_origin: str
    notes: tuple[str, ...] = ()


def find_model(
    source: str,
    options: ModelOptions,
    tracking_uri: str | None,
    folder: Path,
    check_classes: CheckClasses | None = None,
) -> FoundModel:
    """Find a model and build its network.

    ``tracking_uri``: the server that addresses in MLflow are on. ``folder``: for what is fetched.
    ``check_classes``: called before published weights are downloaded.

    Raises:
        BadInputError: as ``locate_model``; or its weights cannot be used, it cannot take images of
            its size, or an option is missing for bare weights.
        EvaluationFailedError: the server does not answer, or refuses the request.
    """
    located = _located(source, options, tracking_uri, folder)
    with _in_terms_of(options):
        return _built(located, options, check_classes)


def _located(
    source: str, options: ModelOptions, tracking_uri: str | None, folder: Path
) -> LocatedModel:
    """As ``locate_model``, with one error for all that MLflow's client raises."""
    # Without a server, an address in MLflow is refused before anything is asked.
    if tracking_uri is None or not is_mlflow_source(source):
        return locate_model(source, options, tracking_uri, folder)
    # Imported here: MLflow is slow to import, and most models are files.
    from service.tracking.mlflow_run import TRACKING_ERRORS
    from service.tracking.refusals import unanswered_text

    try:
        return locate_model(source, options, tracking_uri, folder)
    except TRACKING_ERRORS as error:
        text = f"{options.argument}: {source} is not fetched: "
        raise EvaluationFailedError(text + unanswered_text(tracking_uri, error)) from error


def _built(
    located: LocatedModel, options: ModelOptions, check_classes: CheckClasses | None
) -> FoundModel:
    architecture, weights = located.architecture, located.weights
    known = _classes_of(located, options)
    if check_classes is not None:
        check_classes(known)
    num_classes = known.num_classes
    notes: list[str] = []
    network = build_with_weights(ROLE, architecture, num_classes, weights, notes.append).eval()
    digest = sha256_of(_file_of(located, options))
    own = located.stated or published(architecture, num_classes, weights.source, digest)
    stated = with_options(own, options, located.origin)
    _check_crop_size(network, architecture, num_classes, stated.preprocessing.crop_size, options)
    return FoundModel(
        network,
        architecture,
        num_classes,
        known.classes,
        known.class_names,
        stated.preprocessing,
        located.origin,
        digest,
        located.spec,
        located.run_id,
        located.model_id,
        stated.interpolation,
        stated.origin,
        tuple(notes),
    )


def _classes_of(located: LocatedModel, options: ModelOptions) -> ModelClasses:
    known = located.known or _known_of_weights(located, options)
    num_classes = _num_classes(known, options, located.origin)
    names, readable_names = known.names, known.readable_names
    if names is None or len(names) != num_classes:
        return ModelClasses(located.origin, num_classes, None, None)
    return ModelClasses(located.origin, num_classes, names, readable_names)


def _known_of_weights(located: LocatedModel, options: ModelOptions) -> KnownClasses:
    """What bare weights, or published ones, say about their classes."""
    model, num_classes = located.architecture, options.num_classes
    try:
        known = _known(located, num_classes)
        if not known.sizes and num_classes is None and _is_of_imagenet(model):
            # Its tensors have other names; what loads them says so.
            known = _known(located, NUM_CLASSES)._replace(sizes=(NUM_CLASSES,))
    except UnreadableWeightsError as error:
        refuse(options.argument, f"{located.weights.source} {error.wrong}", error.remedy)
    return known


def _known(located: LocatedModel, num_classes: int | None) -> KnownClasses:
    model, weights = located.architecture, located.weights
    return known_classes(TeacherNetwork(model=model, weights=weights, num_classes=num_classes))


def _is_of_imagenet(model: str) -> bool:
    """Whether a network is published with ImageNet's classes, if it is published at all."""
    return model in TORCHVISION_MODELS or model.startswith(TIMM_PREFIX)


def _num_classes(known: KnownClasses, options: ModelOptions, origin: str) -> int:
    where, stated, sizes = options.where("num_classes"), options.num_classes, known.sizes
    if stated is not None and sizes and stated not in sizes:
        refuse(where, f"is {stated}, but {origin} has {sizes[-1]} classes", "remove it")
    if stated is None and not sizes:
        refuse(where, f"is absent, and {origin} does not say it", "give the number of its classes")
    return stated or sizes[-1]


def _file_of(located: LocatedModel, options: ModelOptions) -> Path:
    source = located.weights.source
    if not source.startswith(TORCHVISION):
        return Path(source)
    enum = source.removeprefix(TORCHVISION)
    return published_file(located.architecture, enum, options.where("weights"))


def _check_crop_size(
    network: nn.Module, name: str, num_classes: int, size: int, options: ModelOptions
) -> None:
    try:
        check_image_sizes(ROLE, name, network, num_classes, [size])
    except BadInputError as error:
        remedy = "give a size that it accepts"
        refuse(options.where("crop"), error.problems[0].wrong, remedy)


@contextlib.contextmanager
def _in_terms_of(options: ModelOptions) -> Iterator[None]:
    """Name options in place of a spec's fields in the errors about a network and its weights."""
    source = options.argument if options.weights is None else options.where("weights")
    try:
        yield
    except BadInputError as error:
        problems = []
        for problem in error.problems:
            field = problem.where.rpartition(".")[2]
            where = options.where(field) if field in ("key", "match", "rename") else source
            # Of an argument already.
            if problem.where.startswith("-") or problem.where == options.argument:
                where = problem.where
            problems.append(Problem(where, problem.wrong, _as_options(problem.remedy, options)))
        raise BadInputError("arguments", problems) from error


def _as_options(remedy: str, options: ModelOptions) -> str:
    """A remedy with options in place of what a spec's fields are set to."""
    for field, option in (
        ("set rename to", f"give {options.where('rename')} OLD=NEW for"),
        ('match to "order"', f"{options.where('match')} order"),
        ("copy the file to the cluster and give its path", f"give {options.where('weights')} FILE"),
    ):
        remedy = remedy.replace(field, option)
    return remedy
