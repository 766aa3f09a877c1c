"""What weights say about themselves, against the model and the dataset they are used with."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.model_names import AUXILIARY_HEADS, TIMM_PREFIX
from service.spec.network_variants import (
    TRANSFORM_KEY,
    USUAL_VARIANT,
    Variant,
    current_name,
    variant_of,
)
from service.spec.published_weights import (
    class_count_problem,
    is_published_with_transform,
    published_image_size,
    published_problems,
)
from service.spec.safetensors_header import read_safetensors_header
from service.spec.sections import Weights, is_file_source, is_mlflow_source
from service.spec.state_dicts import (
    CLASSIFIER,
    Choice,
    choose,
    largest_container,
    prefixes_of_classifiers,
    renamed,
)
from service.spec.tensor_info import FLOAT_DTYPES, TensorInfo, UnreadableWeightsError
from service.spec.weights_file import WeightsFile, is_safetensors, read_weights_file

TORCHVISION = "torchvision:"
NUM_NAMES = 3


def weights_problems(
    where: str, model: str, weights: Weights, num_classes: int | None
) -> Iterator[Problem]:
    """What is wrong with the fields about a model's weights; no file is read.

    ``where``: path of the weights in the spec. ``num_classes``: the dataset's, if it is known and
    the model has all of them and no others.
    """
    if weights.transform_input is not None and model not in AUXILIARY_HEADS:
        remedy = f"remove it: only {' and '.join(AUXILIARY_HEADS)} have this option"
        yield Problem(f"{where}.transform_input", f"is set for {model}", remedy)
    if weights.match == "order" and weights.rename:
        yield Problem(f"{where}.rename", 'is set, but match is "order"', "remove one of them")
    if weights.source.startswith(TORCHVISION):
        yield from published_problems(where, model, weights, num_classes)
        for field in ("sha256", "key", "match", "rename"):
            # A stored spec may have all fields, with their defaults.
            if getattr(weights, field) != Weights.model_fields[field].default:
                remedy = "remove it, or give the path of a file"
                yield Problem(f"{where}.{field}", "is set for weights of torchvision", remedy)
    elif is_mlflow_source(weights.source) and weights.match == "order":
        yield _no_order(where, "the student's file in MLflow")


def weights_file_problems(
    where: str, model: str, weights: Weights, num_classes: int | None
) -> Iterator[Problem]:
    """What is wrong with a file of weights for a model, as far as it is known without building it.

    The parameters are those of ``weights_problems``.
    """
    try:
        file = read_weights_file(Path(weights.source))
        yield from _file_problems(where, model, weights, file, num_classes)
    except UnreadableWeightsError as error:
        yield Problem(f"{where}.source", f"{weights.source} {error.wrong}", error.remedy)
    except BadInputError as error:
        yield from error.problems


def _file_problems(
    where: str, model: str, weights: Weights, file: WeightsFile, num_classes: int | None
) -> Iterator[Problem]:
    if weights.match == "order":
        if file.is_safetensors:
            yield _no_order(where, str(file.path))
            return
        yield from _class_problems(where, file, _sizes_by_order(file, weights), num_classes)
        return
    chosen = _chosen(file, model, weights, where)
    if chosen is None:
        if not model.startswith(TIMM_PREFIX):
            wrong = f"{file.path} has no classifier of {model}, but {some_names(file.tensors)}"
            yield Problem(
                f"{where}.source", wrong, names_remedy(file, model, file.tensors, file.tensors)
            )
        return
    for name, info in chosen.items():
        if name.endswith((".weight", ".bias")) and info.dtype not in FLOAT_DTYPES:
            yield type_problem(f"{where}.source", name, info)
            return
    yield from _class_problems(where, file, classifier_sizes(chosen), num_classes)


def _class_problems(
    where: str, file: WeightsFile, sizes: Sequence[int], num_classes: int | None
) -> Iterator[Problem]:
    """A classifier of another number of classes than the dataset; ``sizes``: the possible ones."""
    if sizes and num_classes is not None and num_classes not in sizes:
        yield class_count_problem(where, str(file.path), sizes[-1], num_classes)


def type_problem(where: str, name: str, info: TensorInfo) -> Problem:
    """A tensor whose values are no plain floating-point numbers."""
    remedy = f"use weights in {', '.join(FLOAT_DTYPES[:-1])} or {FLOAT_DTYPES[-1]}"
    return Problem(where, f"{name} is {info.dtype}", remedy)


def names_remedy(
    file: WeightsFile, model: str, missing: Collection[str], unknown: Collection[str]
) -> str:
    """What to do about a file that lacks names of a network, and has others instead."""
    if not missing:
        return f"save the weights of {model} without {some_names(unknown)}"
    if not unknown:
        return f"use weights of {model}"
    order = ""
    if not file.is_safetensors and len(missing) == len(unknown):
        order = ', or match to "order" if it is the same network'
    return f"use weights of {model}, or set rename to the parts of names that differ{order}"


def some_names(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    shown = sorted(names)[:NUM_NAMES]
    more = f" and {len(names) - NUM_NAMES} more" if len(names) > NUM_NAMES else ""
    return (", ".join(shown) or "nothing") + more


def _no_order(where: str, file: str) -> Problem:
    wrong = f'is "order", but {file} is a safetensors file, which does not keep the order'
    return Problem(f"{where}.match", wrong, "give a .pth file, or set rename to the names' parts")


def weights_notes(spec: JobSpec) -> list[str]:
    """A line for each file that has several weights, of a valid spec: which of them are used."""
    notes = []
    for path, network in spec.networks().items():
        if network.weights is None or not is_file_source(network.weights.source):
            continue
        file = read_weights_file(Path(network.weights.source))
        choice = _choice(file, network.model, network.weights, f"{path}.weights")
        if choice is not None and (note := choice.note(path)):
            notes.append(note)
    return notes


def network_names(file: WeightsFile, model: str, weights: Weights, where: str) -> dict[str, str]:
    """The tensors' names as the spec and the network of today have them: to those in the file.

    They still have their prefixes.

    Raises:
        BadInputError: ``weights.rename`` gives two tensors one name.
    """
    new = {name: current_name(model, renamed(name, weights.rename)) for name in file.tensors}
    names = {name: original for original, name in new.items()}
    for original, name in new.items():
        if names[name] != original:
            wrong = f"gives {original} and {names[name]} the same name"
            problem = Problem(f"{where}.rename", wrong, "rename longer parts of their names")
            raise BadInputError("spec", [problem])
    return names


def _choice(file: WeightsFile, model: str, weights: Weights, where: str) -> Choice | None:
    names = network_names(file, model, weights, where)
    return choose(prefixes_of_classifiers(names), names, weights, where)


def _chosen(
    file: WeightsFile, model: str, weights: Weights, where: str
) -> dict[str, TensorInfo] | None:
    """The tensors that seem to be the network's, without prefixes; None where that is not seen."""
    choice = _choice(file, model, weights, where)
    if choice is None:
        return None
    names = network_names(file, model, weights, where).items()
    prefix = choice.prefix
    return {n.removeprefix(prefix): file.tensors[o] for n, o in names if n.startswith(prefix)}


def classifier_sizes(tensors: Mapping[str, TensorInfo]) -> list[int]:
    """The sizes of the outermost layers whose names are those of classifiers; the last one last."""
    matches = [m for name in tensors if (m := CLASSIFIER.fullmatch(name)) and not m["prefix"]]
    names = sorted((m[0] for m in matches), key=lambda name: (len(name), name))
    return [shape[0] for name in names if (shape := tensors[name].shape)]


def sizes_of_file(model: str, weights: Weights) -> tuple[int, ...]:
    """The numbers of classes that a file's classifiers may have, as far as that is seen.

    Raises:
        UnreadableWeightsError: it is no file of weights.
        BadInputError: it has several weights, and it is not clear which are meant.
    """
    file = read_weights_file(Path(weights.source))
    if weights.match == "names":
        return tuple(classifier_sizes(_chosen(file, model, weights, "weights") or {}))
    return _sizes_by_order(file, weights)


def _sizes_by_order(file: WeightsFile, weights: Weights) -> tuple[int, ...]:
    """The number of classes of a file with other names, but the same order as the network."""
    # The classifier is the last of every network.
    container = f"{weights.key.rstrip('.')}." if weights.key else largest_container(file.containers)
    shapes = [shape for n in file.containers.get(container, ()) if (shape := file.tensors[n].shape)]
    return tuple(shape[0] for shape in shapes[-1:])


def stated_variant(model: str, weights: Weights | None) -> Variant:
    """The variant of a network that its weights are for, as far as they are there to be seen."""
    if weights is None or is_mlflow_source(weights.source):
        return USUAL_VARIANT
    if weights.source.startswith(TORCHVISION):
        size = published_image_size(model, weights.source.removeprefix(TORCHVISION))
        return Variant(model in AUXILIARY_HEADS and weights.transform_input is not False, size)
    file = read_weights_file(Path(weights.source))
    tensors = _chosen(file, model, weights, "weights") if weights.match == "names" else None
    return file_variant(model, tensors or {}, weights, file)


def file_variant(
    model: str, tensors: Mapping[str, TensorInfo], weights: Weights, file: WeightsFile
) -> Variant:
    """The variant of a network with the tensors of a file, by the network's names."""
    transform = weights.transform_input
    if transform is None and TRANSFORM_KEY in file.metadata:
        transform = file.metadata[TRANSFORM_KEY] == "true"
    if transform is None:
        transform = is_published_with_transform(model, file.path)
    return variant_of(model, tensors, transform_input=transform)


def read_card(path: Path) -> dict[str, Any]:
    """What a student of this service says in its safetensors file; empty for other files."""
    try:
        if not path.is_file() or not is_safetensors(path):
            return {}
        metadata = read_safetensors_header(path).metadata
        values = {key: json.loads(metadata[key]) for key in ("num_classes", "classes")}
        values["class_names"] = json.loads(metadata.get("class_names", "null"))
    except (OSError, UnreadableWeightsError, KeyError, ValueError, RecursionError):
        return {}
    return {**metadata, **values} if "architecture" in metadata else {}
