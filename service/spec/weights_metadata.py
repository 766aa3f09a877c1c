"""What weights say about themselves, against the model and the dataset they are used with."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from service.spec.errors import Problem
from service.spec.job import JobSpec
from service.spec.sections import Weights, is_file_source

HEAD_NAMES = ("fc.bias", "classifier.bias", "head.bias", "heads.head.bias", "linear.bias")


def read_header(path: Path) -> dict[str, Any] | None:
    """The header of a safetensors file; None if it is damaged."""
    try:
        with path.open("rb") as file:
            num_bytes = int.from_bytes(file.read(8), "little")
            if num_bytes > path.stat().st_size:
                return None
            header = json.loads(file.read(num_bytes))
    except ValueError:
        return None
    return header if isinstance(header, dict) else None


def classifier_sizes(path: Path) -> list[int] | None:
    """How many classes each classifier in a safetensors file has; None if it is damaged.

    Read from the header alone, from the sizes of tensors by the names that classifiers have.
    """
    header = read_header(path)
    try:
        entries = header.items() if header is not None else ()
        sizes = [entry["shape"][0] for name, entry in entries if name.endswith(HEAD_NAMES)]
    except (KeyError, TypeError, IndexError):
        return None
    return sizes if header is not None else None


def read_card(path: Path) -> dict[str, Any]:
    """What a student of this service says in its safetensors file; empty for other files."""
    metadata = (read_header(path) or {}).get("__metadata__")
    card = metadata if isinstance(metadata, dict) and "architecture" in metadata else {}
    try:
        values = {key: json.loads(card[key]) for key in ("num_classes", "classes") if card}
    except (KeyError, ValueError):
        return {}
    return {**card, **values}


def check_weights_cards(spec: JobSpec, classes: tuple[str, ...] | None) -> Iterator[Problem]:
    """Files of students of this service, that are of another network or another class order.

    ``classes``: names of the training set's classes by label, if they are known.
    """
    for role, model in (("student", spec.student), ("teacher", spec.teacher)):
        if model is None or model.weights is None:
            continue
        path = Path(model.weights.source)
        if is_file_source(model.weights.source) and path.suffix == ".safetensors":
            card = read_card(path) if path.is_file() else {}
            where = f"{role}.weights.source"
            yield from card_problems(where, card, model.model, model.weights, classes)


def card_problems(
    where: str,
    card: Mapping[str, Any],
    model: str,
    weights: Weights,
    classes: tuple[str, ...] | None,
) -> Iterator[Problem]:
    """Weights of another network, or of classes in another order.

    ``card``: see run/student_card.py; without one nothing is known. Classes of other names are no
    problem: the same ones may be named differently.
    """
    trained = card.get("architecture")
    # The same network of torchvision and of timm has the same names of tensors.
    is_other = trained is not None and trained.split(":")[-1] != model.split(":")[-1]
    if is_other and weights.match == "names":
        remedy = f'set the model to {trained}, or match to "order" if it is the same network'
        yield Problem(where, f"has weights of {trained}, but the model is {model}", remedy)
    names = card.get("classes")
    if names and classes and sorted(names) == sorted(classes) and tuple(names) != classes:
        label = next(i for i, (a, b) in enumerate(zip(names, classes, strict=True)) if a != b)
        wrong = f"has label {label} for {names[label]}, but in the dataset it is {classes[label]}"
        yield Problem(where, wrong, "use a dataset whose classes are in the same order")
