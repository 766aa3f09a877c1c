"""What students of this service say in their cards, against a network and a dataset.

See run/student_card.py for what a card has.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from service.spec.errors import Problem
from service.spec.networks import networks_of
from service.spec.sections import Student, is_file_source
from service.spec.teacher_classes import BY_INDEX, classes_of_card, indices_of_names, some_of
from service.spec.teacher_sections import Teacher, TeacherNetwork
from service.spec.weights_metadata import read_card

MAX_SHOWN = 100


def check_weights_cards(
    student: Student, teacher: Teacher | None, classes: tuple[str, ...] | None
) -> Iterator[Problem]:
    """Files of students of this service, that are of another network or of other classes.

    ``classes``: names of the training set's classes by label, if they are known.
    """
    for path, network in networks_of(student, teacher).items():
        if network.weights is not None and is_file_source(network.weights.source):
            card = read_card(Path(network.weights.source))
            yield from card_problems(path, card, network, classes)


def card_problems(
    path: str,
    card: Mapping[str, Any],
    network: Student | TeacherNetwork,
    classes: tuple[str, ...] | None,
) -> Iterator[Problem]:
    """Weights of another network, or of other classes or the same in another order.

    ``path``: that of the network. Without a ``card``, nothing is known. A student may start from
    weights of other classes.
    """
    model, weights, where = network.model, network.weights, f"{path}.weights.source"
    assert weights is not None, "the card is theirs"
    stated = card.get("architecture")
    trained = stated[:MAX_SHOWN] if isinstance(stated, str) and not weights.rename else None
    # The same network of torchvision and of timm has the same names of tensors.
    if trained is not None and trained.split(":")[-1] != model.split(":")[-1]:
        remedy = f"set the model to {trained}, or rename to the names that differ"
        yield Problem(where, f"has weights of {trained}, but the model is {model}", remedy)
    if isinstance(network, Student) or network.classes is None:
        yield from _class_problems(path, card, classes, is_teacher=not isinstance(network, Student))


def _class_problems(
    path: str, card: Mapping[str, Any], classes: tuple[str, ...] | None, *, is_teacher: bool
) -> Iterator[Problem]:
    """Classes that are not the dataset's, compared as ``teacher.classes`` "by_name" compares them.

    Another number of classes is a problem of the weights themselves.
    """
    known, where = classes_of_card(card), f"{path}.weights.source"
    names = known.names
    if "classes" not in card or names is None or classes is None or len(names) != len(classes):
        return
    missing, label = class_differences(names, known.readable_names, classes)
    if missing and is_teacher:
        wrong = f"lacks {some_of(missing)} of the dataset's {len(classes)} classes"
        other = f"if it has them under other names, set {path}.classes: {BY_INDEX}"
        yield Problem(where, wrong, f"use a teacher of these classes, or, {other}")
    if label is not None:
        wrong = f"has label {label} for {names[label]}, but in the dataset it is {classes[label]}"
        by_name = f', or set {path}.classes to "by_name"' if is_teacher else ""
        yield Problem(where, wrong, f"use a dataset whose classes are in the same order{by_name}")


def class_differences(
    names: tuple[str, ...], readable_names: tuple[str, ...], classes: tuple[str, ...]
) -> tuple[list[str], int | None]:
    """The dataset's ``classes`` that a network of as many classes lacks; and, if it lacks none, the
    first label that it has for another class.

    ``names``, ``readable_names``: see ``KnownClasses``. Names that only repeat the labels say
    nothing.
    """
    if _are_numbers(names) or _are_numbers(classes):
        return [], None
    found = indices_of_names(classes, names, readable_names)
    missing = [name for name, indices in zip(classes, found, strict=True) if not indices]
    moved = (label for label, indices in enumerate(found) if label not in indices)
    return missing, None if missing else next(moved, None)


def _are_numbers(names: tuple[str, ...]) -> bool:
    """Whether the names only repeat the labels, as of data whose classes have no names."""
    return all(name == str(label) for label, name in enumerate(names))
