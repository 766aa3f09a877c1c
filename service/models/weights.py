"""A model's weights: written as safetensors, and filled into models from files of any source."""

import json
from collections import OrderedDict
from collections.abc import Container, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

from safetensors.torch import save_file
from torch import Tensor, nn

from data_pipeline.files import sha256_of
from service.models.published import published_file
from service.models.tensors import read_tensors
from service.spec.errors import BadInputError, Problem
from service.spec.network_variants import TRANSFORM_KEY, Variant, is_auxiliary
from service.spec.published_weights import TRANSFORMED_INPUT, enums_of
from service.spec.sections import Weights, is_file_source
from service.spec.state_dicts import Choice, choose, largest_container, prefixes_of_network
from service.spec.tensor_info import FLOAT_DTYPES, TensorInfo, UnreadableWeightsError
from service.spec.weights_file import WeightsFile, read_weights_file
from service.spec.weights_metadata import (
    TORCHVISION,
    file_variant,
    names_remedy,
    network_names,
    some_names,
    type_problem,
)

StateDict = dict[str, Tensor]

# Steps of BatchNorm, which this service does not use and old files lack.
COUNTER = "num_batches_tracked"


class FittingWeights(NamedTuple):
    """Weights that have a network's names.

    ``names``: those of the file, by those of the network. ``where``: path of the weights in the
    spec. ``notes``: to be logged: which of several weights they are, and what is not used.
    """

    file: WeightsFile
    names: dict[str, str]
    variant: Variant
    where: str
    notes: tuple[str, ...] = ()


def find_weights(
    role: str, model: str, weights: Weights, expected: Mapping[str, Tensor]
) -> FittingWeights:
    """Find the tensors of a network in what ``weights`` names; shapes are not compared.

    ``expected``: the state dict of ``model``. ``role``: student or teacher.

    Raises:
        BadInputError: the source cannot be read, has a different SHA-256 digest, or other names.
    """
    where = f"{role}.weights"
    if weights.source.startswith(TORCHVISION):
        weights = _as_file(model, weights, where)
    assert is_file_source(weights.source), "other sources are downloaded first"
    file = _read(Path(weights.source), weights.sha256, where)
    if weights.match == "order":
        choice, names = _by_order(file, weights, expected, where)
    else:
        choice, names = _by_name(file, model, weights, expected, where)
    tensors = {target: file.tensors[source] for target, source in names.items()}
    variant = file_variant(model, tensors, weights, file)
    notes = [choice.note(role), _unused_note(role, model, file, names, choice)]
    return FittingWeights(file, names, variant, where, tuple(note for note in notes if note))


def read_weights(weights: FittingWeights, current: Mapping[str, Tensor]) -> StateDict:
    """The state dict of a network of their variant; ``current``: what it has without them.

    Raises:
        BadInputError: they have other shapes or types, or the file is damaged.
    """
    check_shapes(weights, current)
    where, file = f"{weights.where}.source", weights.file
    try:
        return {**current, **read_tensors(file, weights.names)}
    except UnreadableWeightsError as error:
        _refuse(where, f"{file.path} {error.wrong}", error.remedy)


def check_shapes(weights: FittingWeights, current: Mapping[str, Tensor]) -> None:
    """Refuse weights that a network with the state dict ``current`` cannot be filled with.

    Raises:
        BadInputError: naming the tensor whose shape or type differs.
    """
    for target, source in weights.names.items():
        info = weights.file.tensors[source]
        _check(current[target], target, info, source, f"{weights.where}.source")


def check_finite(weights: FittingWeights, state: Mapping[str, Tensor]) -> None:
    """Refuse weights with NaN or infinite values.

    Raises:
        BadInputError: naming the tensor.
    """
    for target, source in weights.names.items():
        tensor = state[target]
        # As the model has them: a value of 64 bits may be too large for 32.
        if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
            wrong = f"{weights.file.path}: {source} has values that are not finite"
            remedy = "use weights of a training that did not diverge"
            _refuse(f"{weights.where}.source", wrong, remedy)


def fill(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a state dict into the model that has exactly its tensors, in place.

    The model is not adapted to an older version of its class, as its load_state_dict may do: some
    replace layers that an optimizer has, or refuse a state dict that does not say its version.
    """
    versioned = OrderedDict(state)
    versioned._metadata = {  # type: ignore[attr-defined]
        name: {"version": type(module)._version} for name, module in model.named_modules()
    }
    model.load_state_dict(versioned)


def file_metadata(model: nn.Module) -> dict[str, str]:
    """What is needed beside a model's tensors, as metadata of a safetensors file."""
    transform = getattr(model, TRANSFORM_KEY, None)
    return {"format": "pt", **({} if transform is None else {TRANSFORM_KEY: json.dumps(transform)})}


def save_weights(weights: StateDict, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file, with the permissions of any new file.

    ``metadata``: see ``file_metadata``.

    Raises:
        OSError: the storage fails.
        SafetensorError: the writer of the format fails.
    """
    path.touch()
    mode = path.stat().st_mode
    # safetensors replaces the file by one that only its owner may read.
    save_file(weights, path, dict(metadata))
    path.chmod(mode)


def _as_file(model: str, weights: Weights, where: str) -> Weights:
    """Weights of torchvision as the file that it publishes, downloaded if need be."""
    enum = weights.source.removeprefix(TORCHVISION)
    if enum not in enums_of(model):
        names = ", ".join(enums_of(model)) or "none of it"
        _refuse(f"{where}.source", f"{model} has no weights {enum}", f"torchvision has {names}")
    path = published_file(model, enum, f"{where}.source")
    transform = weights.transform_input
    if transform is None and model in TRANSFORMED_INPUT:
        transform = True
    return Weights(source=str(path), transform_input=transform)


def _read(path: Path, sha256: str | None, where: str) -> WeightsFile:
    if not path.exists():
        wrong = f"{path} does not exist"
        _refuse(f"{where}.source", wrong, "give the path of a weights file")
    try:
        file = read_weights_file(path)
    except UnreadableWeightsError as error:
        _refuse(f"{where}.source", f"{path} {error.wrong}", error.remedy)
    if sha256 is not None and (actual := sha256_of(path)) != sha256:
        remedy = "use the file with the pinned digest, or pin this one"
        _refuse(f"{where}.sha256", f"{path} has digest {actual}", remedy)
    return file


def _by_name(
    file: WeightsFile, model: str, weights: Weights, expected: Mapping[str, Tensor], where: str
) -> tuple[Choice, dict[str, str]]:
    required = {name for name in expected if not name.endswith(COUNTER)}
    names = network_names(file, model, weights, where)
    prefixes = prefixes_of_network(names, required)
    choice = choose(prefixes, names, weights, where) or Choice(
        f"{weights.key}." if weights.key else largest_container(file.containers)
    )
    prefix = choice.prefix
    found = {
        name.removeprefix(prefix): original
        for name, original in names.items()
        if name.startswith(prefix) and not any(map(name.startswith, choice.within))
    }
    missing = required - found.keys()
    beside = _tensors_beside_network(file, found, expected)
    unknown = {
        name
        for name in found.keys() - expected.keys()
        if name in beside and not is_auxiliary(model, name)
    }
    if missing or unknown:
        wrong = f"{file.path} lacks {some_names(missing)} and has unknown {some_names(unknown)}"
        _refuse(f"{where}.source", wrong, names_remedy(file, model, missing, unknown))
    return choice, {name: found[name] for name in expected if name in found}


def _tensors_beside_network(
    file: WeightsFile, found: Mapping[str, str], expected: Container[str]
) -> set[str]:
    """Names of the tensors with a shape that are in the same dictionaries as the network's.

    What is in other ones is something else, such as an optimizer's state.
    """
    container_of = file.container_of
    own = {container_of[original] for name, original in found.items() if name in expected}
    return {
        name
        for name, original in found.items()
        if file.tensors[original].shape and (container_of[original] in own or not own)
    }


def _unused_note(
    role: str, model: str, file: WeightsFile, names: Mapping[str, str], choice: Choice
) -> str | None:
    """What to say about other tensors beside the network's, such as those of a normalization."""
    used = set(names.values())
    container_of = file.container_of
    unused = [
        name
        for container in {container_of[name] for name in used}
        for name in file.containers[container]
        if name not in used and file.tensors[name].shape and not name.startswith(choice.others)
    ]
    unused = [n for n in unused if not is_auxiliary(model, n.removeprefix(choice.prefix))]
    return f"{role} weights: {some_names(unused)} of the file not used" if unused else None


def _by_order(
    file: WeightsFile, weights: Weights, expected: Mapping[str, Tensor], where: str
) -> tuple[Choice, dict[str, str]]:
    """Match tensors by position: for the same architecture with other tensor names."""
    if file.is_safetensors:
        _refuse(f"{where}.match", f"{file.path} does not keep the order", "give a .pth file")
    # BatchNorm's step counters, the only scalars, are absent in some implementations.
    targets = [name for name, tensor in expected.items() if tensor.ndim > 0]
    sources = {
        container: [name for name in names if file.tensors[name].shape]
        for container, names in file.containers.items()
    }
    fitting = [name for name, inner in sources.items() if len(inner) == len(targets)]
    choice = choose(fitting, file.tensors, weights, where)
    if choice is None:
        container = f"{weights.key}." if weights.key else largest_container(file.containers)
        count = len(sources.get(container, ()))
        wrong = f"{file.path} has {count} tensors, the model {len(targets)}"
        _refuse(f"{where}.source", wrong, "matching by order needs the same network")
    return choice, dict(zip(targets, sources[choice.prefix], strict=True))


def _check(current: Tensor, target: str, info: TensorInfo, source: str, where: str) -> None:
    """Refuse a tensor of the file that the network's tensor cannot be filled with."""
    if current.is_floating_point() and info.dtype not in FLOAT_DTYPES:
        raise BadInputError("spec", [type_problem(where, source, info)])
    if current.shape != info.shape:
        wrong = f"{source} is {list(info.shape)}, the model's {target} {list(current.shape)}"
        remedy = "use weights for this model and this number of classes"
        network = where.removesuffix(".weights.source")
        # A classifier of more classes.
        if network.startswith("teacher") and info.shape[1:] == tuple(current.shape[1:]):
            remedy += f', or set {network}.classes to "by_name"'
        _refuse(where, wrong, remedy)


def _refuse(where: str, wrong: str, remedy: str) -> NoReturn:
    raise BadInputError("spec", [Problem(where, wrong, remedy)])
