"""The images of an evaluation, and whether a model's classes are theirs."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipeline.beton import BetonError, BetonFile, open_beton
from data_pipeline.facts import DatasetFacts, dataset_facts
from data_pipeline.sources.image_labels import human_names
from service.evaluate.locate import refuse
from service.evaluate.options import ModelOptions
from service.evaluate.source import FoundModel, ModelClasses
from service.spec.paths import absolute_path, path_remedy
from service.spec.teacher_classes import indices_of_names, some_of
from service.spec.weights_cards import class_differences

ARGUMENT = "DATA"


class EvaluatedData(NamedTuple):
    """A file with labels, all of whose images are evaluated."""

    file: BetonFile
    facts: DatasetFacts

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names by label; None for a file without a manifest."""
        return self.facts.classes


def open_data(path: Path) -> EvaluatedData:
    """Open a .beton and check what is known of it without decoding.

    Raises:
        BadInputError: it is missing, damaged, or has no labels.
    """
    path = absolute_path(path)
    if not path.is_file():
        refuse(ARGUMENT, f"{path} is no file", path_remedy(path, "the path of a .beton file"))
    try:
        data = EvaluatedData(open_beton(path), dataset_facts(str(path)))
    except BetonError as error:
        wrong, _, remedy = str(error).rpartition("; ")
        refuse(ARGUMENT, wrong, remedy)
    if data.facts.is_unlabeled:
        refuse(ARGUMENT, f"{path} has no labels", "give images with labels")
    lowest, highest = data.facts.lowest_label, data.facts.highest_label
    if lowest < 0 or (data.classes is not None and highest >= len(data.classes)):
        wrong = f"{path} has the label {lowest if lowest < 0 else highest}, which is no class"
        refuse(ARGUMENT, wrong, "convert it again")
    return data


def logit_indices(
    data: EvaluatedData, model: ModelClasses | FoundModel, options: ModelOptions, *, by_name: bool
) -> tuple[int, ...] | None:
    """The model's index of each class of the data, in label order; None for all as they are.

    ``by_name``: the model may have more classes, or the same in another order.

    Raises:
        BadInputError: the model lacks classes of the data, has more, or has them in another order.
    """
    where = options.where("classes")
    if by_name:
        return _indices_by_name(data, model, where)
    classes, argument = data.classes, options.argument
    num_classes = data.facts.highest_label + 1 if classes is None else len(classes)
    fits = model.num_classes == num_classes or classes is None
    if model.num_classes < num_classes or not fits:
        wrong = f"has {model.num_classes} classes, the data {num_classes}"
        remedy = "use data of its classes"
        if model.num_classes > num_classes:
            remedy += f", or give {where} by_name: only those of the data are then used"
        refuse(argument, f"{model.origin} {wrong}", remedy)
    if classes is None or model.classes is None:
        return None
    names = model.classes
    missing, label = class_differences(names, model.class_names or (), classes)
    if missing:
        wrong = f"{model.origin} lacks {some_of(missing)} of the data's {len(classes)} classes"
        refuse(argument, wrong, "use data of its classes")
    if label is not None:
        wrong = f"has label {label} for {names[label]}, but in the data it is {classes[label]}"
        refuse(argument, f"{model.origin} {wrong}", f"give {where} by_name")
    return None


def _indices_by_name(
    data: EvaluatedData, model: ModelClasses | FoundModel, where: str
) -> tuple[int, ...]:
    if data.classes is None:
        wrong = f"is by_name, but {data.file.path.name} has no manifest that names its classes"
        refuse(where, wrong, "convert the data again")
    if model.classes is None:
        wrong = f"is by_name, but {model.origin} does not name its classes"
        refuse(where, wrong, "remove it")
    found = indices_of_names(data.classes, model.classes, model.class_names or ())
    pairs = list(zip(data.classes, found, strict=True))
    for text, names in (
        ("lacks", [name for name, indices in pairs if not indices]),
        ("has several classes for", [name for name, indices in pairs if len(indices) > 1]),
    ):
        if names:
            wrong = f"is by_name, but {model.origin} {text} {some_of(names)} of {len(pairs)}"
            refuse(where, wrong, "use data of its classes")
    indices = tuple(one for (one,) in found)
    repeated, count = Counter(indices).most_common(1)[0]
    if count > 1:
        same = [name for name, (one,) in pairs if one == repeated]
        wrong = f"is by_name, but {' and '.join(same[:3])} are one class of {model.origin}"
        refuse(where, wrong, "use data of its classes")
    return indices


def names_of_classes(data: EvaluatedData, model: FoundModel) -> Sequence[str]:
    """Readable names by label, of all classes that can be predicted."""
    unnamed = tuple(f"label {label}" for label in range(model.num_classes))
    return human_names(data.classes or model.classes or unnamed)
