"""Where a model is, and what is known of it, before its weights are read.

A source is a run's folder, an address in MLflow, a file of weights, or the name of a network of
torchvision or timm. torch is not imported: an error about a path is there in a second.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from data_pipeline.sources.image_labels import human_names
from service.evaluate.options import ModelOptions
from service.evaluate.preprocessing import Stated, of_card, of_run
from service.run.folder import STUDENT_NAME, read_spec
from service.run.result import read_result
from service.run.student_card import read_classes
from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.mlflow_rules import source_problem
from service.spec.model_names import TORCHVISION_MODELS, model_name_problem
from service.spec.paths import absolute_path, path_remedy
from service.spec.published_weights import published_problems
from service.spec.sections import Weights, is_mlflow_source
from service.spec.teacher_classes import KnownClasses, classes_of_card
from service.spec.weights_metadata import TORCHVISION, read_card
from service.tracking.destination import stored_run_id

# Options that say what the result of a run says itself.
ABOUT_WEIGHTS = ("weights", "architecture", "num_classes", "key", "match", "rename")


class LocatedModel(NamedTuple):
    """A model's network and weights.

    ``stated``, ``known``: what it says about its images and its classes; None for bare weights.
    ``run_id``, ``model_id``: in MLflow, where known. Else as ``FoundModel``.
    """

    architecture: str
    weights: Weights
    origin: str
    stated: Stated | None = None
    known: KnownClasses | None = None
    spec: JobSpec | None = None
    run_id: str | None = None
    model_id: str | None = None


def locate_model(
    source: str, options: ModelOptions, tracking_uri: str | None, folder: Path
) -> LocatedModel:
    """Find what a source names; files of MLflow are fetched into ``folder``.

    Raises:
        BadInputError: there is no such model, its run is unfinished or damaged, or an option is
            missing, or is of another kind of source.
        One of TRACKING_ERRORS: the server does not answer.
    """
    if is_mlflow_source(source):
        return _in_mlflow(source, options, tracking_uri, folder)
    name_problem = model_name_problem(source)
    if name_problem is None:
        return _of_name(source, options)
    path = absolute_path(source)
    if not path.exists():
        _, remedy = name_problem
        if "/" in source or path.suffix:
            remedy = path_remedy(source, "the path of a run's folder or of a file of weights")
        refuse(options.argument, f"{source} is no file, no folder and no known network", remedy)
    return _of_run(path, options) if path.is_dir() else _of_file(path, options, path.name)


def _of_run(path: Path, options: ModelOptions) -> LocatedModel:
    _refuse_options(options, ABOUT_WEIGHTS, "a run's folder")
    try:
        spec = read_spec(path)
        result, classes = read_result(path), read_classes(path)
    except FileNotFoundError:
        refuse(options.argument, f"{path} has no run in it", "give a run's folder, or a file")
    if result is None:
        remedy = "submit its spec again, which resumes it, or wait until it has finished"
        refuse(options.argument, f"the run in {path} has not finished", remedy)
    weights_path = path / STUDENT_NAME
    if not weights_path.is_file():
        remedy = "restore the file, or remove result.json and submit the spec again"
        refuse(options.argument, f"the run in {path} is damaged: it has no {STUDENT_NAME}", remedy)
    readable = tuple(human_names(classes)) if classes is not None else ()
    which = "last step" if spec.training.ema_decay is None else "EMA of the last step"
    return LocatedModel(
        spec.student.model,
        Weights(source=str(weights_path)),
        f"run {spec.name} ({which})",
        of_run(spec),
        KnownClasses((spec.dataset.num_classes,), classes, readable),
        spec,
        stored_run_id(path),
    )


def _in_mlflow(
    source: str, options: ModelOptions, tracking_uri: str | None, folder: Path
) -> LocatedModel:
    if problem := source_problem(source):
        refuse(options.argument, *problem)
    remedy = "give --tracking-uri, or set MLFLOW_TRACKING_URI"
    if tracking_uri is None:
        refuse(options.argument, f"{source} is in MLflow, and no server is given", remedy)
    # Imported here: MLflow is slow to import, and most models are files.
    from service.tracking.server_check import is_new_database
    from service.tracking.weights_source import fetch, find_weights

    if is_new_database(tracking_uri):
        wrong = f"{source} is in MLflow, but there is no database at {tracking_uri}"
        refuse(options.argument, wrong, remedy)
    try:
        found = find_weights(source, tracking_uri, options.argument)
    except BadInputError as error:
        raise BadInputError("arguments", error.problems) from error
    path = fetch(found.uri, str(folder), tracking_uri)
    located = _of_file(path, options, f"{source}, {found.origin}")
    return located._replace(run_id=found.run_id, model_id=found.model_id)


def _of_file(path: Path, options: ModelOptions, origin: str) -> LocatedModel:
    """A file of weights: a student of this service says itself what it is."""
    _refuse_options(options, ["weights"], "a file of weights")
    where, card = options.where("architecture"), read_card(path)
    architecture = options.architecture or card.get("architecture")
    if architecture is None:
        wrong = f"is absent, and {path.name} does not say of which network it is"
        refuse(where, wrong, "give it, such as resnet18 or timm:NAME")
    if problem := model_name_problem(architecture):
        refuse(where, *problem)
    # The same network of torchvision and of timm has the same names of tensors.
    if card and card["architecture"].split(":")[-1] != architecture.split(":")[-1]:
        refuse(
            where, f"is {architecture}, but {path.name} is of {card['architecture']}", "remove it"
        )
    weights = Weights(source=str(path), key=options.key, match=options.match, rename=options.rename)
    if not card:
        return LocatedModel(architecture, weights, origin)
    if "weights" in card:
        origin = f"{origin}, {card['weights']}"
    return LocatedModel(architecture, weights, origin, of_card(card), classes_of_card(card))


def _of_name(name: str, options: ModelOptions) -> LocatedModel:
    """A network with weights in a file, or with those that torchvision publishes."""
    where = options.where("weights")
    _refuse_options(options, ["architecture"], "the name of a network")
    source = options.weights
    if source is None:
        if name not in TORCHVISION_MODELS:
            wrong = f"is absent, and torchvision publishes none for {name}"
            refuse(where, wrong, "give a file of weights")
        source = f"{TORCHVISION}DEFAULT"
    if source.startswith(TORCHVISION):
        weights = Weights(source=source)
        if problems := list(published_problems("", name, weights, options.num_classes)):
            raise BadInputError("arguments", [p._replace(where=where) for p in problems])
        _refuse_options(options, ["key", "match", "rename"], f"the published {name}")
        return LocatedModel(
            name, weights, f"{TORCHVISION}{name} {source.removeprefix(TORCHVISION)}"
        )
    if is_mlflow_source(source):
        remedy = f"give it as {options.argument}, with {options.where('architecture')} {name}"
        refuse(where, "is an address in MLflow", remedy)
    path = absolute_path(source)
    if not path.is_file():
        remedy = path_remedy(source, "a file of weights, or torchvision:ENUM")
        refuse(where, f"{path} is no file", remedy)
    alone = options._replace(weights=None, architecture=name)
    return _of_file(path, alone, f"{name} of {path.name}")


def _refuse_options(options: ModelOptions, names: Sequence[str], what: str) -> None:
    """Refuse options that would say what the source itself says; ``what``: the source."""
    wrong, remedy = f"is set, but {options.argument} is {what}", "remove it"
    given = [name for name in names if name in options.given]
    if given:
        problems = [Problem(options.where(name), wrong, remedy) for name in given]
        raise BadInputError("arguments", problems)


def refuse(where: str, wrong: str, remedy: str) -> NoReturn:
    """Raise the error of an argument."""
    raise BadInputError("arguments", [Problem(where, wrong, remedy)])
